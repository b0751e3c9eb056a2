"""The two ways of measuring: as published, and ours."""

import dataclasses
import functools

from experiments.run import flags
from experiments.run.flags import Penalty
from jaxalign.align.methods import SOLVERS, taking
from jaxalign.core.errors import UserError

PUBLISHED_SEEDS = (42, 123, 217, 7, 531)
PUBLISHED_RIDGE = 0.1
LARGEST_SEED = 2**32 - 1  # of NumPy's legacy generator, which the published split uses
OWN_PHOTOGRAPH = {"included": ("included",), "excluded": ("excluded",), "both": ("included", "excluded")}

METHODS = tuple(SOLVERS)
RANKED = frozenset(name for name, of in SOLVERS.items() if of.ranked)  # methods that --ranks applies to
# Methods fitted by gradient: --loss, --steps and --fit_rank apply.
GRADIENT = frozenset(name for name, of in SOLVERS.items() if of.needs_rows)
PENALISED = taking("l2")  # methods that --l2 applies to


def _fraction(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise UserError(f"--{name} takes a number between 0 and 1, got {value:g}.")
    return value


@dataclasses.dataclass(frozen=True, kw_only=True)
class Protocol:
    """How rows are prepared, people split, methods fitted and comparisons counted.

    A flag that is not given leaves the protocol's own setting.

    Attributes:
      name: "published" or "default".
      centred_identity: whether training means are subtracted even for the baseline without a map.
      fixed: settings that belong to the protocol and cannot be changed by a flag.
    """

    name: str
    methods: tuple[str, ...] = flags.field(
        None,
        f"Ways to align, separated by commas, of: {', '.join(METHODS)}. Without it, one of each kind, "
        "or all of the published protocol's. "
        "`identity` is no alignment, the baseline. Example: --methods=identity,orthogonal,ridge",
        read=functools.partial(flags.words, known=METHODS, what="method"),
        initial=(),
    )
    l2: Penalty = flags.field(
        None,
        "Penalty of ridge and reduced_rank, as scikit-learn's alpha: a number; a grid separated by commas, "
        "chosen from by cross-validation over people; `cv`, the same over a wide built-in grid; `gcv`, "
        "generalised cross-validation, cheaper. Without it: cv, or 0.1 under --protocol=published. Example: "
        "--l2=0.01,0.1,1",
        read=flags.penalty,
        initial="cv",
    )
    normalize: str = flags.field(
        None,
        "`l2` scales every row to length 1 before anything else (the default), `none` leaves rows as they are.",
        choices=("l2", "none"),
        initial="l2",
    )
    seeds: tuple[int, ...] = flags.field(
        None,
        "Seeds of the random split of people into training and test, separated by commas; every seed is one "
        "complete run, and the table gives mean and standard deviation. Without it: 42, and under "
        f"--protocol=published {','.join(map(str, PUBLISHED_SEEDS))}. Example: --seeds=42",
        read=functools.partial(flags.whole_numbers, low=0, high=LARGEST_SEED),
        initial=PUBLISHED_SEEDS,
    )
    train_fraction: float = flags.field(
        None,
        "Share of people to fit on; all others are tested. Without it: 0.7.",
        kind=float,
        read=_fraction,
        initial=0.7,
    )
    own_photograph: tuple[str, ...] = flags.field(
        None,
        "Identification: may the gallery hold the same image as the probe, under the other encoder? `included` "
        "flatters the result, `excluded` does not, `both` reports both. Without it: excluded, or both under "
        "--protocol=published.",
        choices=OWN_PHOTOGRAPH,
        read=lambda _, value: OWN_PHOTOGRAPH[value],
        initial=("excluded",),
    )
    comparisons: str = flags.field(
        None,
        "Verification: `all` comparisons of different photographs (the default), or the `balanced` sample of "
        "the published code: every genuine pair once and as many random impostor pairs.",
        choices=("all", "balanced"),
        initial="all",
    )
    centred_identity: bool = False
    fixed: frozenset[str] = frozenset()

    def fitted_as(self, method: str) -> str:
        """The name of the solver that a method means under this protocol."""
        return "translation" if method == "identity" and self.centred_identity else method

    def replace(self, **settings: object) -> "Protocol":
        """The protocol with some settings changed, but for None; ``UserError`` if the protocol fixes a setting."""
        given = {name: value for name, value in settings.items() if value is not None}
        for name, value in given.items():
            ours = getattr(self, name)
            if name in self.fixed and value != ours:
                advice = f"leave --{name} out or choose --protocol=default"
                raise UserError(f"--protocol={self.name} fixes --{name}={ours}, got {value}; {advice}.")
        return dataclasses.replace(self, **given)  # pyright: ignore[reportArgumentType]


# Rubab, Tong, Ross (arXiv 2604.07282), to the letter: rows of length 1, training means subtracted from every
# row (of the baseline too), penalty 0.1 on the unscaled Gram matrix, the same image in the gallery; we report
# it excluded too.
PUBLISHED = Protocol(
    name="published",
    methods=("identity", "orthogonal", "linear", "ridge"),
    l2=PUBLISHED_RIDGE,
    centred_identity=True,
    own_photograph=("included", "excluded"),
    fixed=frozenset({"normalize", "train_fraction", "l2"}),
)

# Ours: the penalty chosen on training people, the same image never in the gallery, and the methods that came
# since.
DEFAULT = Protocol(
    name="default",
    methods=("identity", "translation", "orthogonal", "linear", "ridge", "canonical", "shared"),
)

PROTOCOLS = {protocol.name: protocol for protocol in (DEFAULT, PUBLISHED)}
