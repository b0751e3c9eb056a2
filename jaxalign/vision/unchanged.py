"""Whether photographs are still those that rows were made from: no row of another photograph is ever used again."""

import contextlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

from jaxalign.core.errors import UserError
from jaxalign.vision.images import BadImage, ImageSource, View, described, read_contents


class Photograph(NamedTuple):
    """A row's sample id, person and ``content_digest``; None where a store does not know them."""

    sample_id: str
    identity: str | None
    digest: str | None


def read_photographs(
    source: ImageSource,
    made: Sequence[Photograph],
    views: Sequence[View],
    bad_images: Literal["fail", "skip"],
    stop: int | None = None,
) -> list[Photograph]:
    """The usable photographs of a source, the first ``stop`` or all; those like the ones ``made`` are not decoded.

    Raises:
      UserError: one is bad, and bad images are not skipped.
    """
    digests = {photograph.sample_id: photograph.digest for photograph in made}
    is_known = lambda sample_id, digest: digests.get(sample_id, "") in (digest, None)  # noqa: E731
    found = []
    with contextlib.closing(read_contents(source, is_known, views, stop=stop)) as contents:
        for content in contents:
            if not isinstance(content, BadImage):
                found.append(Photograph(content.sample.sample_id, content.sample.identity, content.digest))
            elif bad_images == "fail":
                raise UserError(f"{described(source, content)}. Mend or remove it, or skip bad images.")
    return found


def require_unchanged(
    made: Sequence[Photograph], found: Sequence[Photograph], where: str, remedy: str
) -> None:
    """Refuses photographs that are not, in the same order, those that the rows at ``where`` were made from.

    Raises:
      UserError: some were added, removed, replaced, relabelled or moved; says how many of each, and the ``remedy``.
    """
    before, now = ({photograph.sample_id: photograph for photograph in side} for side in (made, found))
    both = [name for name in before if name in now]
    changes = {
        "added": [name for name in now if name not in before],
        "removed": [name for name in before if name not in now],
        "replaced": [name for name in both if _differ(before[name].digest, now[name].digest)],
        "relabelled": [name for name in both if _differ(before[name].identity, now[name].identity)],
    }
    if not any(changes.values()):
        moved = [one.sample_id for one, other in zip(made, found) if one.sample_id != other.sample_id]
        changes = {"in another place": moved}
    said = [f"{len(names):,} {what} (first: {names[0]!r})" for what, names in changes.items() if names]
    if said:
        raise UserError(
            f"{where}: since its rows were made, photographs changed: {', '.join(said)}; {remedy}."
        )


def _differ(before: str | None, now: str | None) -> bool:
    return before is not None and before != now
