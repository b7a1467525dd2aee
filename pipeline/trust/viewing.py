"""Channels as they stand, for those who decide about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tuf.api.metadata import TargetFile

from pipeline.errors import UsageError
from pipeline.models.channel import Channels
from pipeline.models.pointer import Pointer
from pipeline.trust import layout
from pipeline.trust.draft import Signers, ours
from pipeline.trust.history import newest_entry
from pipeline.trust.review import ReadPointer
from pipeline.trust.state import State, channels_of, names
from pipeline.trust.views import ChannelView


class Pointers(Mapping[str, Pointer]):
    """The pointers of a channel, by image; each is read when it is asked for."""

    def __init__(self, channel: str, targets: Mapping[str, TargetFile], read: ReadPointer) -> None:
        self._channel = channel
        self._read = read
        self._targets = {
            layout.parse_pointer_path(path)[1]: target for path, target in targets.items()
        }
        self._known: dict[str, Pointer] = {}

    def __getitem__(self, image: str) -> Pointer:
        """The pointer of an image.

        Raises:
            KeyError: the channel holds no such image.
            TrustError, NetworkError, HostError: it cannot be had.
        """
        target = self._targets[image]
        if image not in self._known:
            self._known[image] = self._read(self._channel, image, target)
        return self._known[image]

    def __iter__(self) -> Iterator[str]:
        return iter(self._targets)

    def __len__(self) -> int:
        return len(self._targets)


def view(state: State, name: str, keyring: Signers, read: ReadPointer) -> ChannelView:
    """A channel as it stands.

    Raises:
        TrustError: its metadata is refused.
    """
    tip = state.get(name)
    keys = state.keys(name)
    return ChannelView(
        name=name,
        version=tip.version,
        pointers=Pointers(name, tip.signed.targets, read),
        frozen=tip.state.frozen if tip.state else "",
        threshold=state.targets.signed.get_delegated_role(name).threshold,
        keyholders=names(keys),
        ours=ours(keyring, keys),
        last=newest_entry(state, name),
    )


def require_channel(state: State, name: str, channels: Channels) -> None:
    """Refuse a channel that nobody can sign.

    Raises:
        UsageError: there is no such channel, or it has no role yet; says what to do.
    """
    known = channels_of(state.targets.signed)
    if name in known:
        return
    if name in channels.names:
        raise UsageError(
            f"channel {name} is in images/channels.yaml, and nobody may sign it yet",
            hint=f"`recast keys add {name} …` says who may, and gives it its role in the store.",
        )
    raise UsageError(f"there is no channel `{name}`", hint=f"There are: {', '.join(known)}.")
