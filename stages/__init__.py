"""One file per pipeline stage; a stage imports no other stage."""
