"""The device side: what a machine at a site runs. Its import graph stays small."""
