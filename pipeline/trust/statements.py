"""The shapes of in-toto statements about a release: their types, and what is in them.

The envelope is DSSE's, the statement in-toto's v1; the predicates are SLSA's provenance v1, and
in-toto's test result and reference, https://github.com/in-toto/attestation/tree/main/spec. Fields
of ours have the prefix that in-toto asks of extensions. Nothing but the shape is checked here:
:mod:`pipeline.trust.attestations` verifies, :mod:`pipeline.trust.attest` makes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from pipeline.models.fields import Moment
from pipeline.trust.layout import Attester

PAYLOAD_TYPE = "application/vnd.in-toto+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
TEST_RESULT = "https://in-toto.io/attestation/test-result/v0.1"
REFERENCE = "https://in-toto.io/attestation/reference/v0.1"
BUILD_TYPE = "urn:recast:build:v1"
"""What a build's parameters mean: an image of a project, at a commit, by its definition."""
BUILDER_ID = "urn:recast:builder:v1"
"""What made and tested it: Recast, on a machine of whoever holds the key that signed."""
SBOM_TYPE = "application/vnd.cyclonedx+json"

SHA256 = "sha256"
ROOT_HASH = "dmVerityRootHash"
"""Name of the root hash in a subject's set of digests."""

MAX_ENVELOPE = 256 << 10
"""The most bytes of an envelope that are read."""

PREDICATES: Mapping[str, str] = {"provenance": PROVENANCE, "test": TEST_RESULT, "sbom": REFERENCE}
"""The predicate's type by kind of evidence."""

SIGNED_BY: Mapping[str, Attester] = {
    "provenance": "builder",
    "test": "tester",
    "sbom": "builder",
}
"""Whose keys sign a kind of evidence."""

_MAX_SIGNATURES = 16


class Shape(BaseModel):
    """Immutable, with names as JSON has them; fields that are not known here mean nothing here."""

    model_config = ConfigDict(
        frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=True
    )


class Resource(Shape):
    """Something that a statement is about or names, by digest."""

    name: str = ""
    uri: str = ""
    digest: Mapping[str, str] = {}
    media_type: str = ""
    annotations: Mapping[str, object] = {}


class Parameters(Shape):
    """What was asked for."""

    image: str
    commit: str
    dirty: bool = False
    definition_digest: str


class Definition(Shape):
    """How it is built: SLSA's `buildDefinition`."""

    build_type: Literal["urn:recast:build:v1"]
    external_parameters: Parameters
    resolved_dependencies: tuple[Resource, ...] = ()


class Builder(Shape):
    """What built it."""

    id: str
    version: Mapping[str, str] = {}


class Metadata(Shape):
    """Which run built it, and when."""

    invocation_id: str = ""
    started_on: Moment | None = None
    finished_on: Moment | None = None


class RunDetails(Shape):
    """One run of the builder."""

    builder: Builder
    metadata: Metadata = Metadata()


class Provenance(Shape):
    """The predicate of SLSA's provenance v1."""

    build_definition: Definition
    run_details: RunDetails


class ResultOfTests(Shape):
    """The predicate of in-toto's test result; fields of ours have the prefix it asks for."""

    result: Literal["PASSED", "WARNED", "FAILED"]
    configuration: Annotated[tuple[Resource, ...], Field(min_length=1)]
    failed_tests: tuple[str, ...] = ()
    provider: str = Field(alias="recast_provider")
    root_hash: str = Field(alias="recast_rootHash")
    tests: int = Field(alias="recast_tests", ge=0)
    finished: Moment = Field(alias="recast_finishedOn")
    seconds: float = Field(default=0.0, alias="recast_seconds")
    boot_seconds: float = Field(default=0.0, alias="recast_bootSeconds")


class Reference(Shape):
    """The predicate that points to another document."""

    references: Annotated[tuple[Resource, ...], Field(min_length=1)]


class Statement(Shape):
    """An in-toto statement."""

    type: Literal["https://in-toto.io/Statement/v1"] = Field(alias="_type")
    subject: tuple[Resource, ...]
    predicate_type: str
    predicate: Mapping[str, object]


class Signature(Shape):
    """One signature of an envelope, as DSSE has it."""

    keyid: str
    sig: str


class Envelope(Shape):
    """A DSSE envelope, as JSON has it: payload and signatures are base64."""

    payload: str
    payload_type: str
    signatures: Annotated[tuple[Signature, ...], Field(max_length=_MAX_SIGNATURES)]
