"""The store of fitted models, read blend by blend, and merged from shards."""

import functools
import hashlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from astropy.table import Table

from ...io import PathLike
from ...io.reading import named_errors
from ...model.blend import Blend
from .files import KIND, StoreFile
from .kinds import STORED_CLASSES, Classes, Kinds, component_type_of, source_types
from .layout import MIGRATIONS, TABLES, Migration, Rows, split
from .merge import Merged, open_store, write_merged
from .record import StoredBlend, decoded


class ModelStore:
    """Fitted models of many blends, in a file.

    Parameters
    ----------
    path
        The file; or the folder ``….partial`` of a run that has not ended.
    classes
        Names of the classes that components are made of.
    migrations
        What leads from older versions of the layout to this one.

    Attributes
    ----------
    header
        What holds for all blends: bands, configuration, coordinates.
    ids
        Numbers of the blends, increasing.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is damaged, or no store, or of a version that is not known.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> star = jd.Blend.of([jd.PointSource((8.3, 7.6), [5.0])], frame=(16, 16))
    >>> fit = jd.FitResult(star, loss=np.array([2.5]), n_steps=np.array(1), status=np.array(0))
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "models.h5"
    >>> with jd.StoreWriter.create(path, jd.StoreHeader(bands=("r",))) as writer:
    ...     writer.append(jd.StoredBlend(7, 3, jd.Box((40, 52), (16, 16)), np.array([12]), fit))
    >>> with jd.ModelStore(path) as store:
    ...     blend = store.blend(7)
    ...     print(store.ids, store.record(7).box, store.table("sources")["row"][0])
    [7] Box(start=(40, 52), shape=(16, 16)) 12
    >>> bool((blend.cube() == star.cube()).all())
    True
    """

    def __init__(
        self, path: PathLike, *, classes: Classes = STORED_CLASSES, migrations: Mapping[int, Migration] = MIGRATIONS
    ):
        self.path = Path(path)
        self._merged = Merged(open_store(self.path, migrations))
        self.header, self.ids = self._merged.header, self._merged.ids
        with named_errors(self.path, KIND):
            self._kinds = Kinds(self.header, classes, self._merged.kinds)
        if len(self._merged.files) == 1:  # many files are opened as they are needed
            self._merged.files[0].open()

    def __enter__(self) -> "ModelStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, blend_id: int) -> bool:
        place = np.searchsorted(self.ids, blend_id)
        return bool(place < len(self.ids) and self.ids[place] == blend_id)

    def close(self) -> None:
        """Close the file."""
        for file in self._merged.files:
            file.close()

    def blend(self, blend_id: int) -> Blend:
        """Read one blend, and nothing else.

        It is the blend that was fitted, bit for bit, with its constraints and priors, and can be fitted further.

        Raises
        ------
        ValueError
            If the store has no such blend, or no model of it.
        """
        return self.record(blend_id).blend

    def blends_of(self, parent: int) -> list[int]:
        """Numbers of the blends of a parent, increasing; none if there is no such parent."""
        return self.ids[self._parents == parent].tolist()

    def record(self, blend_id: int) -> StoredBlend:
        """Read all that is stored of one blend.

        Raises
        ------
        ValueError
            If the store has no such blend.
        """
        if blend_id not in self:
            raise ValueError(f"{self.path}: it has no blend {blend_id}; see its ids.")
        place = int(np.searchsorted(self.ids, blend_id))
        return self._decoded(self._merged.rows(place, place + 1))

    def records(self) -> Iterator[StoredBlend]:
        """Read all blends in the order of their ids, with few of them in memory."""
        for rows in self._merged.blocks():
            for one in split(rows):
                yield self._decoded(one)

    def _decoded(self, rows: Rows) -> StoredBlend:
        with named_errors(self.path, KIND):
            return decoded(rows, self._kinds)

    def table(self, name: str) -> Table:
        """Read a table without the models.

        Parameters
        ----------
        name
            ``"blends"``, ``"sources"`` or ``"components"``. The latter two have the column ``blend`` besides.

        Returns
        -------
        Table
            All rows, in the order of blends.
        """
        if name not in ("blends", "sources", "components"):
            raise ValueError(f"name: got {name!r}; give 'blends', 'sources' or 'components'.")
        rows = self._merged.rows(0, len(self), tables=(name,))
        table = Table({column: rows[f"{name}/{column}"] for column in TABLES[name] if not column.startswith("first_")})
        for column in table.colnames:
            table[column].description = TABLES[name][column].meaning  # pyright: ignore[reportAttributeAccessIssue]
        if name != "blends":
            table.add_column(np.repeat(self.ids, rows[f"blends/n_{name}"]), index=0, name="blend")
        return table

    def model_types(self) -> np.ndarray:
        """What the components of each source are, in the order of the table of sources.

        Returns
        -------
        np.ndarray
            Texts: ``"point"``, ``"extended"``, ``"cube"`` or the name of another class; several joined by ``+``; empty
            for a source without components.
        """
        rows = self._merged.rows(0, len(self), tables=("components",))
        counts, active = rows["blends/n_sources"], rows["components/active"]
        first = np.cumsum(counts) - counts
        sources = np.repeat(first, rows["blends/n_components"]) + rows["components/source"]
        with named_errors(self.path, KIND):
            words = [component_type_of(text) for text in self._merged.kinds]
            shine = [sources[active & (rows["components/kind"] == k)] for k in range(len(words))]
            return source_types(int(counts.sum()), list(zip(words, shine, strict=True)))

    @functools.cached_property
    def _parents(self) -> np.ndarray:
        return self._merged.rows(0, len(self), tables=())["blends/parent"]

    def reasons(self) -> dict[int, str]:
        """Why blends were not fitted, by the number of each of these."""
        rows = self._merged.rows(0, len(self), tables=("blends", "letters"))
        stops, letters = np.cumsum(rows["blends/n_letters"]), rows["letters/value"]
        with named_errors(self.path, KIND):
            return {
                int(self.ids[k]): letters[stops[k] - rows["blends/n_letters"][k] : stops[k]].tobytes().decode()
                for k in np.flatnonzero(rows["blends/n_letters"])
            }

    def digest(self) -> str:
        """SHA-256 of all that is stored, but for what wrote it: equal for stores of equal content."""
        hashes = {f"{table}/{name}": hashlib.sha256() for table, columns in TABLES.items() for name in columns}
        for rows in self._merged.blocks():
            for name, column in rows.items():
                hashes[name].update(np.ascontiguousarray(column).data)
        header = self.header
        psf = None if header.model_psf is None else (header.model_psf.shape, header.model_psf.tobytes())
        about = repr((header.bands, header.config, header.wcs, header.unit, header.dtype, psf, self._merged.kinds))
        text = about + "".join(f"{name} {hashes[name].hexdigest()}" for name in sorted(hashes))
        return hashlib.sha256(text.encode()).hexdigest()


def merge_stores(
    paths: Iterable[PathLike],
    out: PathLike,
    *,
    overwrite: bool = False,
    migrations: Mapping[int, Migration] = MIGRATIONS,
) -> Path:
    """Merge stores, of the shards of a run for instance, into one.

    The file is that of a run that was not sharded, to the last byte. Files of older versions of the layout become such
    of this one.

    Parameters
    ----------
    paths
        Finished stores.
    out
        The file to write.
    overwrite
        Whether it may exist already.
    migrations
        What leads from older versions of the layout to this one.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If they were made with different configurations, or share a blend.
    FileExistsError
        If the file exists and `overwrite` is not set.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> import numpy as np
    >>> import jaxdeblend as jd
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for shard in (0, 1):
    ...     with jd.StoreWriter.create(folder / f"{shard}.h5", jd.StoreHeader(bands=("g",))) as writer:
    ...         lost = jd.StoredBlend(shard, 0, jd.Box((0, 0), (8, 8)), np.zeros(1, int), reason="masked")
    ...         writer.append(lost)
    >>> jd.ModelStore(jd.merge_stores([folder / "1.h5", folder / "0.h5"], folder / "all.h5")).ids.tolist()
    [0, 1]
    """
    out = Path(out)
    files = [StoreFile(Path(path), migrations) for path in paths]
    if not files:
        raise ValueError("paths: got none; give at least one store.")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out}: exists already; remove it, or allow overwriting.")
    out.parent.mkdir(parents=True, exist_ok=True)
    write_merged(files, out)
    return out
