"""``python:``: any other network, through a callable of the user's."""

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from jaxalign.core.errors import UserError
from jaxalign.vision.encoders.base import Encoder
from jaxalign.vision.encoders.jax_encoder import DEFAULT_BATCH, JaxEncoder
from jaxalign.vision.encoders.preprocessing import Preprocessing
from jaxalign.vision.encoders.specification import Settings, Specification

_MEMBERS = ("name", "dim", "batch_size", "preprocessing", "prepare", "encode", "describe")


def load_python(specification: Specification, settings: Settings) -> Encoder:
    """Loads ``python:<module>:<callable>?name=&dtype=&batch=``; further options are the callable's arguments, as text.

    The callable returns an ``Encoder``, or ``(apply, params, preprocessing)`` as ``JaxEncoder`` takes them;
    ``preprocessing`` is a ``Preprocessing`` or a mapping of its fields.

    Raises:
      UserError: the module or the callable is not there, does not take the options, or returns something else.
    """
    module_name, colon, attribute = specification.target.partition(":")
    if not (module_name and colon and attribute):
        specification.refuse("expected python:<module>:<callable>, such as python:my_encoders:siglip.")
    factory = _find(specification, module_name, attribute)
    own = {
        key: value for key, value in specification.options.items() if key not in ("name", "dtype", "batch")
    }
    try:
        inspect.signature(factory).bind(**own)
    except TypeError as error:
        specification.refuse(f"{attribute} does not take the options {sorted(own)} ({error}).")
    except ValueError:
        pass  # a callable that has no signature to look at
    made = factory(**own)
    if isinstance(made, tuple):
        return _jax_encoder(specification, settings, made, attribute, own)
    missing = [member for member in _MEMBERS if not hasattr(made, member)]
    if missing:
        specification.refuse(
            f"{attribute} must return (apply, params, preprocessing) or an object with {', '.join(_MEMBERS)}; got "
            f"{type(made).__name__} without {', '.join(missing)}."
        )
    ignored = [key for key in ("name", "dtype", "batch") if key in specification.options]
    if ignored:
        specification.refuse(
            f"{attribute} returns an encoder of its own, which {', '.join(ignored)} cannot change."
        )
    return made


def _find(specification: Specification, module_name: str, attribute: str) -> Any:
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not (module_name + ".").startswith(error.name + "."):
            specification.refuse(f"module {module_name} needs {error.name}, which is not installed.")
        specification.refuse(f"there is no module {module_name} on Python's path.")
    for part in attribute.split("."):
        if not hasattr(found, part):
            specification.refuse(f"module {module_name} has no {attribute}.")
        found = getattr(found, part)
    if not callable(found):
        specification.refuse(f"{attribute} in {module_name} is {type(found).__name__}, expected a callable.")
    return found


def _jax_encoder(
    specification: Specification,
    settings: Settings,
    made: tuple[Any, ...],
    attribute: str,
    own: dict[str, str],
) -> JaxEncoder:
    if len(made) != 3 or not callable(made[0]):
        specification.refuse(
            f"{attribute} must return (apply, params, preprocessing), got a tuple of {len(made)}."
        )
    apply, params, given = made
    try:
        preprocessing = Preprocessing(**given) if isinstance(given, Mapping) else given
    except (TypeError, UserError) as error:
        specification.refuse(f"{attribute} returned a preprocessing that does not fit: {error}")
    if not isinstance(preprocessing, Preprocessing):
        specification.refuse(
            f"{attribute} returned {type(given).__name__} as preprocessing, expected a Preprocessing."
        )
    return JaxEncoder(
        specification.name(attribute),
        apply,
        params,
        preprocessing,
        batch_size=specification.batch_size(settings, DEFAULT_BATCH),
        dtype=specification.dtype(settings),
        devices=settings.devices,
        facts=lambda: {
            "form": "python",
            "source": specification.target,
            "options": own,
        },
    )
