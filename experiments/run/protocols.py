"""The two ways of measuring: as published, and as we would.

A protocol says how rows are prepared, how people are split, which methods run with which penalty, whether the
probe's own photograph may be in the gallery, and which comparisons verification counts.
"""

import dataclasses

from jaxalign.core.errors import UserError

PUBLISHED_SEEDS = (42, 123, 217, 7, 531)
PUBLISHED_RIDGE = 0.1

METHODS = (
    "identity",
    "translation",
    "orthogonal",
    "similarity",
    "linear",
    "ridge",
    "reduced_rank",
    "canonical",
    "shared",
    "low_rank",
    "joint",
)
RANKED = frozenset({"reduced_rank", "canonical", "shared"})  # methods that --ranks applies to
GRADIENT = frozenset(
    {"low_rank", "joint"}
)  # methods fitted by gradient: --loss, --steps and --fit_rank apply
PENALISED = frozenset({"ridge", "reduced_rank"})  # methods that --l2 applies to

Penalty = float | tuple[float, ...] | str


@dataclasses.dataclass(frozen=True)
class Protocol:
    """How a run measures.

    Attributes:
      name: "published" or "default".
      normalize: "l2" scales every row to length 1 before anything else, "none" leaves rows as they are.
      train_fraction: share of people to fit on; the rest is tested.
      seeds: of the shuffle of people, one split each.
      methods: those that run when none are named.
      l2: penalty of ridge and reduced_rank, as scikit-learn's alpha: a number, a grid, "cv" or "gcv".
      centred_identity: whether the baseline without a map still has training means subtracted.
      own_photograph: of the probe, in the gallery of an identification: "included", "excluded" or both, one
        result each.
      comparisons: of verification: "all", or "balanced" (every genuine pair i < j and as many sampled
        impostors).
      fixed: settings that belong to the protocol and cannot be changed by a flag.
    """

    name: str
    normalize: str = "l2"
    train_fraction: float = 0.7
    seeds: tuple[int, ...] = PUBLISHED_SEEDS
    methods: tuple[str, ...] = ()
    l2: Penalty = "cv"
    centred_identity: bool = False
    own_photograph: tuple[str, ...] = ("excluded",)
    comparisons: str = "all"
    fixed: frozenset[str] = frozenset()

    def fitted_as(self, method: str) -> str:
        """The name of the solver that a method means under this protocol."""
        return "translation" if method == "identity" and self.centred_identity else method

    def replace(self, **settings: object) -> "Protocol":
        """The protocol with some settings changed; None leaves a setting as it is.

        Raises:
          UserError: a setting differs from one that the protocol fixes.
        """
        given = {name: value for name, value in settings.items() if value is not None}
        for name, value in given.items():
            ours = getattr(self, name)
            if name in self.fixed and value != ours:
                raise UserError(
                    f"--protocol={self.name} fixes --{name}={ours}, got {value}; leave --{name} out or "
                    "choose --protocol=default."
                )
        return dataclasses.replace(self, **given)  # pyright: ignore[reportArgumentType]


# Rubab, Tong, Ross (arXiv 2604.07282), to the letter: rows of length 1, training means subtracted from every
# row (of the baseline too), penalty 0.1 on the unscaled Gram matrix, own photograph in the gallery; we report
# it excluded too.
PUBLISHED = Protocol(
    name="published",
    methods=("identity", "orthogonal", "linear", "ridge"),
    l2=PUBLISHED_RIDGE,
    centred_identity=True,
    own_photograph=("included", "excluded"),
    fixed=frozenset({"normalize", "train_fraction", "l2"}),
)

# Ours: the penalty chosen on training people, own photograph never in the gallery, and the methods that came
# since.
DEFAULT = Protocol(
    name="default",
    methods=("identity", "translation", "orthogonal", "linear", "ridge", "canonical", "shared"),
)

PROTOCOLS = {protocol.name: protocol for protocol in (DEFAULT, PUBLISHED)}
