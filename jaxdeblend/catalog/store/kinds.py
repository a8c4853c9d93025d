"""Kinds of components in a store: a line of JSON that says of which classes one is made, and where its numbers lie.

A component is a tree of modules: a spectrum, a morphology, its constraints and priors. A *kind* is what components have
in common: the names of their classes, what is static, and the shapes of all arrays. The arrays themselves are stored
for each component. So a component comes back as it was, with its own constraints and priors, and nothing but the
classes of one table of names is ever made from a file.
"""

import dataclasses
import functools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from ...model import component, constraint, morphology, prior, spectrum
from ...model.blend import Stack
from ...runtime.host import AnyArray
from .layout import StoreHeader

STORED_CLASSES: Mapping[str, type[eqx.Module] | eqx.Module] = MappingProxyType(
    {
        "factorized": component.FactorizedComponent,
        "cube": component.CubeComponent,
        "free_spectrum": spectrum.FreeSpectrum,
        "image": morphology.ImageMorphology,
        "point": morphology.PointMorphology,
        "positive": constraint.Positive,
        "monotonic": constraint.Monotonic,
        "weighted_monotonic": constraint.WeightedMonotonic,
        "symmetric": constraint.Symmetric,
        "sparse_threshold": constraint.SparseThreshold,
        "connected": constraint.Connected,
        "center_kept": constraint.CenterKept,
        "normalized": constraint.Normalized,
        "symmetric_prior": prior.SymmetricPrior,
    }
)
"""Names of the classes that components are made of.

For your own, give ``STORED_CLASSES | {"name": Class}`` where stores are made and opened. A module in place of a class
(``{"network": prior}``) is not stored: it is the same for all components, too large to be kept with each of them, and
given again where a store is opened.
"""

_TYPES = MappingProxyType({"image": "extended"})
"""What components of a class are called in catalogs, if not as in stores."""

Classes = Mapping[str, type[eqx.Module] | eqx.Module]

PLACES = ("spectrum", "pixels", "parameters")
"""Where the numbers of components lie."""


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of a component.

    Attributes
    ----------
    path
        Names of the fields that lead to it.
    shape
        Its shape, of one component.
    place
        Where its numbers lie: ``"spectrum"``, ``"pixels"``, ``"parameters"``; ``"given"`` for those of a module that is
        not stored.
    dtype
        NumPy's name of the type; empty for the precision of the store.
    """

    path: str
    shape: tuple[int, ...]
    place: str
    dtype: str = ""

    @property
    def size(self) -> int:
        """How many numbers it has."""
        return math.prod(self.shape)


@dataclasses.dataclass(frozen=True)
class Kind:
    """What components have in common.

    Attributes
    ----------
    text
        JSON, one line.
    leaves
        The arrays of a component, in the order of `jax.tree.leaves`.
    """

    text: str
    leaves: tuple[Leaf, ...]

    @functools.cached_property
    def sizes(self) -> dict[str, int]:
        """How many numbers of one component lie in each place."""
        return {place: sum(leaf.size for leaf in self.leaves if leaf.place == place) for place in PLACES}


def describe(components: eqx.Module, header: StoreHeader, classes: Classes) -> Kind:
    """Find the kind of the components of a stack.

    Parameters
    ----------
    components
        The components; each array has a leading axis.
    header
        Header of the store.
    classes
        Names of classes.

    Returns
    -------
    Kind
        Their kind.

    Raises
    ------
    ValueError
        If something in them has no name, cannot be written as text, or would not come back as it is.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> star = jd.Blend.of([jd.PointSource((5, 6), jnp.array([1.0, 2.0]))], frame=(16, 16)).stacks[0]
    >>> kind = describe(star.component, StoreHeader(bands=("g", "r")), STORED_CLASSES)
    >>> [(leaf.path, leaf.shape, leaf.place) for leaf in kind.leaves]
    [('spectrum.amplitude', (2,), 'spectrum'), ('morphology.pixels', (15, 15), 'pixels')]
    """
    names = {value if isinstance(value, type) else type(value): name for name, value in classes.items()}
    leaves, tree = jax.tree.flatten(components)
    node = _node(components, "", header, names, classes)
    kind = parse(json.dumps(node, separators=(",", ":")), classes)
    if tree_of(kind, [_first(np.asarray(leaf)) for leaf in leaves], classes) != tree:
        raise ValueError(f"fit: a component would not come back as it is; its kind would be {kind.text}")
    return kind


def _first(array: np.ndarray) -> np.ndarray:
    """Array of the first component, if there is one."""
    return np.asarray(array[0]) if len(array) else np.ones(array.shape[1:], array.dtype)


def _node(value: Any, path: str, header: StoreHeader, names: Mapping[type, str], classes: Classes) -> dict[str, Any]:
    """Describe one node of the tree."""
    if isinstance(value, eqx.Module):
        name = names.get(type(value))
        if name is None:
            raise ValueError(
                f"fit: {type(value).__name__} ({path or 'a component'}) has no name in a store; give "
                f"classes=STORED_CLASSES | {{'name': {type(value).__name__}}} where it is made and opened."
            )
        if not isinstance(classes[name], type):
            return {"given": name}
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
        below = path + "." if path else ""
        return {
            "class": name,
            "fields": {key: _node(item, below + key, header, names, classes) for key, item in fields.items()},
        }
    if isinstance(value, tuple):
        return {"items": [_node(item, f"{path}.{k}", header, names, classes) for k, item in enumerate(value)]}
    if isinstance(value, AnyArray):
        return _array_node(value, path, header)
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise ValueError(f"fit: {path} is a {type(value).__name__}, which a store cannot hold; make it an array or static.")


def _array_node(value: AnyArray, path: str, header: StoreHeader) -> dict[str, Any]:
    shape = list(value.shape[1:])
    if path == "spectrum.amplitude" and shape == [len(header.bands)]:
        place = "spectrum"
    else:
        place = "pixels" if len(shape) > 1 else "parameters"
    node = {"array": path, "shape": shape, "in": place}
    return node if str(value.dtype) == header.dtype else node | {"dtype": str(value.dtype)}


def parse(text: str, classes: Classes) -> Kind:
    """Read a kind from its line.

    Parameters
    ----------
    text
        JSON.
    classes
        Names of classes.

    Raises
    ------
    ValueError
        If it is no kind, or a name is unknown.

    Examples
    --------
    >>> text = '{"class":"free_spectrum","fields":{"amplitude":{"array":"a","in":"parameters","shape":[2]}}}'
    >>> parse(text, STORED_CLASSES).leaves
    (Leaf(path='a', shape=(2,), place='parameters', dtype=''),)
    """
    try:
        return Kind(text, tuple(_leaves(json.loads(text), classes)))
    except (KeyError, TypeError, AttributeError, RecursionError, json.JSONDecodeError) as error:
        raise ValueError(f"not a kind of component: {text[:200]}") from error


def _leaves(node: dict[str, Any], classes: Classes) -> Iterator[Leaf]:
    if "array" in node:
        yield _leaf(node)
    elif "given" in node:
        for number, array in enumerate(jax.tree.leaves(_named(node["given"], classes))):
            yield Leaf(f"{node['given']}.{number}", np.shape(array), "given")
    elif "class" in node:
        _named(node["class"], classes)
        for below in node["fields"].values():
            yield from _leaves(below, classes)
    else:
        for below in node.get("items", ()):
            yield from _leaves(below, classes)


def _leaf(node: dict[str, Any]) -> Leaf:
    """An array, if it can be one."""
    leaf = Leaf(str(node["array"]), tuple(node["shape"]), node["in"], node.get("dtype", ""))
    np.dtype(leaf.dtype or "float32")
    if leaf.place not in PLACES or not all(type(edge) is int and edge >= 0 for edge in leaf.shape):
        raise TypeError(f"{leaf.path} is no array")
    return leaf


def _named(name: str, classes: Classes) -> Any:
    if name not in classes:
        raise ValueError(
            f"classes: the store holds a {name!r}; give classes=STORED_CLASSES | {{{name!r}: …}} to read it."
        )
    return classes[name]


def tree_of(kind: Kind, arrays: Sequence[np.ndarray], classes: Classes) -> Any:
    """Find the structure of the components of a kind, as `jax.tree.structure` gives it.

    Parameters
    ----------
    kind
        The kind.
    arrays
        The arrays of one component, in the order of the kind's leaves: classes may check them.
    classes
        Names of classes.

    Raises
    ------
    ValueError
        If a class does not take its fields by name.
    """
    try:
        return jax.tree.structure(_built(json.loads(kind.text), iter(arrays), classes))
    except (TypeError, StopIteration) as error:
        raise ValueError(f"fit: a class does not take its fields by name, and cannot be stored: {error}") from error


def _built(node: dict[str, Any], arrays: Iterator[np.ndarray], classes: Classes) -> Any:
    """One component, for its structure alone."""
    if "array" in node:
        return jnp.asarray(next(arrays))
    if "given" in node:
        for _ in jax.tree.leaves(classes[node["given"]]):
            next(arrays)
        return classes[node["given"]]
    if "class" in node:
        fields = {key: _built(below, arrays, classes) for key, below in node["fields"].items()}
        return _named(node["class"], classes)(**fields)
    if "items" in node:
        return tuple(_built(below, arrays, classes) for below in node["items"])
    return node["value"]


def component_type(component: eqx.Module) -> str:
    """What catalogs call a component: by its morphology, or by itself if it has none.

    Examples
    --------
    >>> import jaxdeblend as jd
    >>> component_type(jd.PointSource((5.0, 6.0), [1.0]).components[0])
    'point'
    """
    shape = getattr(component, "morphology", component)
    names = {value: name for name, value in STORED_CLASSES.items()}
    name = names.get(type(shape), type(shape).__name__)
    return _TYPES.get(name, name)


def component_type_of(text: str) -> str:
    """The same of a kind of component, from its line.

    Examples
    --------
    >>> component_type_of('{"class":"factorized","fields":{"morphology":{"class":"image","fields":{}}}}')
    'extended'
    """
    node = json.loads(text)
    shape = node.get("fields", {}).get("morphology", node)
    name = shape.get("class", shape.get("given", ""))
    return _TYPES.get(name, name)


def source_types(n_sources: int, parts: Iterable[tuple[str, np.ndarray]]) -> np.ndarray:
    """What the components of each source are, as one text.

    Parameters
    ----------
    n_sources
        Number of sources.
    parts
        What components are called, and the sources that have such.

    Returns
    -------
    np.ndarray
        Texts in alphabetical order, joined by ``+``.

    Examples
    --------
    >>> source_types(3, [("point", np.array([1])), ("extended", np.array([0, 1, 1]))]).tolist()
    ['extended', 'extended+point', '']
    """
    found = np.full(n_sources, "", dtype=object)
    has: dict[str, np.ndarray] = {}
    for word, sources in parts:
        has.setdefault(word, np.zeros(n_sources, bool))[sources] = True
    for word in sorted(has):
        found[has[word]] = [f"{text}+{word}" if text else word for text in found[has[word]]]
    return found


class Kinds:
    """The kinds of a store, by number; each is worked out once.

    Parameters
    ----------
    header
        Header of the store.
    classes
        Names of classes.
    texts
        Lines of the kinds that are there already.

    Examples
    --------
    >>> import jax.numpy as jnp
    >>> import jaxdeblend as jd
    >>> from jaxdeblend.catalog.store.layout import StoreHeader
    >>> star = jd.Blend.of([jd.PointSource((5, 6), jnp.array([1.0, 2.0]))], frame=(16, 16)).stacks[0]
    >>> kinds = Kinds(StoreHeader(bands=("g", "r")))
    >>> number, numbers = kinds.encoded(star)
    >>> number, {place: values.shape for place, values in numbers.items()}
    (0, {'spectrum': (1, 2), 'pixels': (1, 225), 'parameters': (1, 0)})
    >>> bool((kinds.decoded(number, numbers).morphology.pixels == star.component.morphology.pixels).all())
    True
    """

    def __init__(self, header: StoreHeader, classes: Classes = STORED_CLASSES, texts: Sequence[str] = ()):
        self.header, self.classes, self.texts = header, classes, list(texts)
        self._numbers: dict[object, int] = {}
        self._trees: dict[int, Any] = {}
        self._kinds = [parse(text, classes) for text in texts]

    def __getitem__(self, number: int) -> Kind:
        if not 0 <= number < len(self._kinds):
            raise ValueError(f"damaged: it has no kind of component {number}")
        return self._kinds[number]

    def encoded(self, stack: Stack) -> tuple[int, dict[str, np.ndarray]]:
        """Number of the kind of a stack's components, and the numbers of each of them by place."""
        arrays = [np.asarray(leaf) for leaf in jax.tree.leaves(stack.component)]
        number, count = self._number(stack.component, arrays), len(stack.source)
        found: dict[str, list[np.ndarray]] = {place: [] for place in PLACES}
        for leaf, array in zip(self[number].leaves, arrays, strict=True):
            if leaf.place == "given":
                self._check_given(leaf, array)
            else:
                found[leaf.place].append(lossless(array, self.header.dtype, leaf.path).reshape(count, leaf.size))
        none = np.zeros((count, 0), self.header.dtype)
        return number, {place: np.concatenate([none, *parts], axis=1) for place, parts in found.items()}

    def decoded(self, number: int, numbers: Mapping[str, np.ndarray]) -> Any:
        """Components of a kind from their numbers; arrays stay on the host."""
        count, used = len(numbers["pixels"]), dict.fromkeys(numbers, 0)
        arrays = []
        for leaf in self[number].leaves:
            if leaf.place == "given":
                arrays.append(np.broadcast_to(self._given(leaf), (count, *leaf.shape)))
                continue
            start = used[leaf.place]
            used[leaf.place] = stop = start + leaf.size
            values = numbers[leaf.place][:, start:stop].reshape(count, *leaf.shape)
            arrays.append(values.astype(leaf.dtype) if leaf.dtype else values)
        if number not in self._trees:
            self._trees[number] = tree_of(self[number], [_first(array) for array in arrays], self.classes)
        return jax.tree.unflatten(self._trees[number], arrays)

    def _number(self, components: eqx.Module, arrays: list[np.ndarray]) -> int:
        key = jax.tree.structure(components), tuple((array.shape[1:], str(array.dtype)) for array in arrays)
        if key not in self._numbers:
            kind = describe(components, self.header, self.classes)
            if kind.text not in self.texts:
                self.texts.append(kind.text)
                self._kinds.append(kind)
            self._numbers[key] = self.texts.index(kind.text)
        return self._numbers[key]

    def _given(self, leaf: Leaf) -> np.ndarray:
        """Array of a module that is not stored."""
        name, _, number = leaf.path.rpartition(".")
        return np.asarray(jax.tree.leaves(self.classes[name])[int(number)])

    def _check_given(self, leaf: Leaf, array: np.ndarray) -> None:
        given = self._given(leaf)
        if not np.array_equal(array, np.broadcast_to(given, array.shape), equal_nan=True):
            raise ValueError(f"classes: the module given as {leaf.path.rpartition('.')[0]!r} is not that of the fit.")


def lossless(values: AnyArray, dtype: str | np.dtype, what: str) -> np.ndarray:
    """An array of another type, which holds the same values.

    Examples
    --------
    >>> import numpy as np
    >>> lossless(np.array([1, 2]), "float32", "numbers")
    array([1., 2.], dtype=float32)
    """
    array = np.asarray(values)
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        other = array.astype(dtype)
    if not np.array_equal(other.astype(array.dtype), array, equal_nan=True):
        raise ValueError(f"{what}: {array.dtype} does not fit into {dtype}; make the store with dtype='float64'.")
    return other
