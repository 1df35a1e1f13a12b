"""Which models there are, where their files lie, which one serves, and the way back to the one before."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from loguru import logger
from sklearn.exceptions import NotFittedError

from trading_system.ml_refinement.config import MLConfig, ModelMetadata, ModelType
from trading_system.ml_refinement.models import artefact
from trading_system.ml_refinement.models.base_model import BaseModel
from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.models.model import ArtefactModel
from trading_system.ml_refinement.models.regime_classifier import RegimeClassifier
from trading_system.ml_refinement.models.return_predictor import ReturnPredictor
from trading_system.ml_refinement.models.risk_predictor import RiskPredictor
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel
from trading_system.ml_refinement.storage.errors import UnknownModel
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.models import ANY, ROLLED_BACK, Promotion, RegistryRow, Unconditional

_SAFE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,133}")
_SUFFIX = ".skops"
#: What a class of one's own writes, in whatever form it likes.
_FOREIGN_SUFFIX = ".pkl"
#: So many of the ledger's newest entries are looked at for the model before.
_LEDGER = 10_000


class ModelRegistry:
    """Models in the store, their rows and their bytes, and as files in one directory.

    With a store its bytes serve, on whichever host: the file is written beside them for whoever looks for it, and read
    where the store has only a row, as those of older releases. Bytes from either place are parsed only if they hash to
    what the row says. Without a store the registry remembers the hashes for as long as it lives, and takes other files
    of the directory as they are.
    `register`, `activate` and `get_active` answer, and log what went wrong; `enter`, `promote`, `serving` and `load`
    raise it.

    Example:
        registry = ModelRegistry("models/", db)
        registry.register(model)
        registry.activate(model.model_id)
        serving = registry.get_active(ModelType.SIGNAL_QUALITY)
    """

    #: The class that a file of each type is loaded with. A model of one's own is entered here, or in a subclass.
    MODEL_CLASSES: ClassVar[dict[ModelType, Callable[[], BaseModel]]] = {
        ModelType.SIGNAL_QUALITY: SignalQualityModel,
        ModelType.RETURN_PREDICTOR: ReturnPredictor,
        ModelType.REGIME_CLASSIFIER: RegimeClassifier,
        ModelType.RISK_PREDICTOR: RiskPredictor,
    }

    def __init__(self, model_dir: str | Path = "models/", db: FeatureDatabase | None = None) -> None:
        """Create the directory, readable by its owner alone, if there is none."""
        self.model_dir = Path(model_dir)
        self.model_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.db = db
        self._active_models: dict[ModelType, BaseModel] = {}
        self._unstored: dict[str, tuple[ModelMetadata, str, str]] = {}
        self._own_classes: dict[str, Callable[[], BaseModel]] = {}

    @classmethod
    def from_config(cls, config: MLConfig, db: FeatureDatabase | None = None) -> Self:
        """The registry of the configuration's `model_dir`, on this store or else on that at `feature_db_path`."""
        if db is None:
            db = FeatureDatabase.from_config(config)
            db.initialize()
        return cls(config.model_dir, db)

    def register(self, model: BaseModel) -> bool:
        """Write the model's file and enter it, not serving. False: it is not, and the log says why."""
        try:
            self.enter(model)
        except (NotFittedError, ModelFileRefused, OSError) as error:
            logger.error("model {} was not registered: {}", model.model_id, error)
            return False
        return True

    def activate(self, model_id: str, *, reason: str = "activated by hand", actor: str | None = None) -> bool:
        """Let a model serve. False: it does not, what served goes on serving, and the log says why."""
        try:
            self.promote(model_id, reason=reason, actor=actor)
        except (UnknownModel, ModelFileRefused) as error:
            logger.error("model {} was not activated: {}", model_id, error)
            return False
        return True

    def get_active(self, model_type: ModelType) -> BaseModel | None:
        """The model that serves now; None where none does, or where its file is refused: then the log says why."""
        try:
            return self.serving(model_type)
        except ModelFileRefused as error:
            logger.error("the active {} cannot be loaded: {}", model_type.value, error)
            return None

    def enter(self, model: BaseModel, *, recipe: str | None = None, run_id: str | None = None) -> None:
        """`register` for callers that have to know what went wrong.

        Raises:
            NotFittedError: the model is not fitted.
            OSError: the file could not be written; nothing was entered.
            ModelFileRefused: the model's id cannot be a file name, or its own `save` wrote no file.
            StoreMoved: the store is not at its path any more; no file was written.
        """
        if not model.is_fitted:
            raise NotFittedError(f"{model.model_id} is not fitted")
        if self.db is not None:
            self.db.check_in_place()  # else the file would lie beside a store that does not know it
        path, data = self._write(model)
        sha256 = hashlib.sha256(data).hexdigest()
        metadata = _finite_metadata(model.get_metadata())
        self._own_classes[model.model_id] = type(model)
        if self.db is None:
            self._unstored[model.model_id] = (metadata, sha256, path.name)
        else:
            own_recipe = getattr(model, "recipe", None) or _foreign_name(model)
            self.db.models.register(
                metadata,
                model_path=path.name,
                artefact_sha256=sha256,
                feature_version=model.feature_version or None,
                recipe=recipe if recipe is not None else own_recipe,
                run_id=run_id,
                data=data,
            )
        logger.info("registered model {}", model.model_id)

    def promote(
        self,
        model_id: str,
        *,
        reason: str = "activated by hand",
        figures: Mapping[str, Any] | None = None,
        proven: bool | None = None,
        run_id: str | None = None,
        expected_active: str | Unconditional | None = ANY,
        fence: int | None = None,
        actor: str | None = None,
        pin: bool = False,
    ) -> None:
        """`activate` for callers that have to know what went wrong. Its bytes are read and verified first.

        `proven` None leaves it as it was. `expected_active`, `fence`, `actor` and `pin` are those of `Models.activate`.

        Raises:
            UnknownModel: it is not registered.
            ModelFileRefused: its file is missing, altered or malformed; what served goes on serving.
            StaleActivation: another model is active than expected, or a newer training run has begun.
        """
        row = self._row(model_id)
        if self._filed(model_id, row) is None:
            raise UnknownModel(f"there is no model {model_id!r}")
        model = self.load(model_id)
        if self.db is not None and row is not None:
            self.db.models.activate(
                model_id,
                reason=reason,
                figures=figures,
                proven=row.proven if proven is None else proven,
                run_id=run_id,
                expected_active=expected_active,
                fence=fence,
                actor=actor,
                pin=pin,
            )
        self._active_models[model.model_type] = model
        logger.info("model {} serves: {}", model_id, reason)

    def serving(self, model_type: ModelType) -> BaseModel | None:
        """The model of that type that serves now, as the store says at this moment; None where none does.

        Raises:
            ModelFileRefused: the serving model's file cannot be trusted.
        """
        cached = self._active_models.get(model_type)
        if self.db is None:
            return cached
        active_id = self.db.models.active_id(model_type.value)
        if active_id is None:
            self._active_models.pop(model_type, None)
            return None
        if cached is None or cached.model_id != active_id:
            self._active_models[model_type] = cached = self.load(active_id)
        return cached

    def load(self, model_id: str) -> BaseModel:
        """Any registered model, verified against the hash in its row before a byte of it is parsed.

        Raises:
            ModelFileRefused: unknown, no hash, a file that is missing, altered or malformed, or no class to read it.
        """
        row = self._row(model_id)
        filed = self._filed(model_id, row)
        if filed is None:
            raise ModelFileRefused(f"there is no model {model_id!r}")
        model_type, sha256, name = filed
        if row is not None and row.is_pickled:
            raise ModelFileRefused(f"{model_id}: its file {name} is a pickle, which is never loaded")
        hashed = sha256 is not None or self.db is None
        if not hashed or name not in (model_id + _SUFFIX, model_id + _FOREIGN_SUFFIX):
            raise ModelFileRefused(f"{model_id}: the store knows no file of ours for it")
        model_class = self._own_classes.get(model_id) or self.MODEL_CLASSES.get(model_type)
        if model_class is None:
            raise ModelFileRefused(f"{model_id}: there is no class for {model_type.value}")
        model = model_class()
        if isinstance(model, ArtefactModel) != name.endswith(_SUFFIX):
            wrote = f", {row.recipe}," if row is not None and row.recipe else ""
            raise ModelFileRefused(
                f"{model_id}: {type(model).__name__} does not read {name}: the class that wrote it{wrote} has to be "
                f"the one that MODEL_CLASSES names for {model_type.value}"
            )
        self._read(model, self._path(name), sha256)
        if not isinstance(model, ArtefactModel):
            model.model_id = model_id  # the file of someone else's class need not hold it; the hash says whose it is
        if model.model_id != model_id:
            raise ModelFileRefused(f"{model_id}: the file holds {model.model_id}")
        return model

    def get_model_history(self, model_type: ModelType, limit: int = 10) -> list[ModelMetadata]:
        """Registered models of a type, newest first."""
        if self.db is not None:
            return self.db.get_model_history(model_type.value, limit)
        known = [metadata for metadata, *_ in self._unstored.values() if metadata.model_type == model_type]
        return known[::-1][:limit]

    def compare_models(self, model_type: ModelType, metric: str = "auc") -> list[dict[str, Any]]:
        """The 50 newest models of a type by a validation metric, highest first.

        A model without the metric stands last, its `metric` None.
        """
        compared = [
            {
                "model_id": metadata.model_id,
                "version": metadata.version,
                "created_at": metadata.created_at,
                "metric": metadata.validation_metrics.get(metric),
                "is_active": metadata.is_active,
            }
            for metadata in self.get_model_history(model_type, limit=50)
        ]
        return sorted(compared, key=lambda row: (row["metric"] is None, -(row["metric"] or 0.0)))

    def _row(self, model_id: str) -> RegistryRow | None:
        return self.db.models.get(model_id) if self.db is not None else None

    def _load_model(self, model_id: str, model_type: ModelType) -> BaseModel | None:
        """A model by its id, served as the active one of its type from now on; None: refused, and the log says why."""
        try:
            self._active_models[model_type] = model = self.load(model_id)
        except ModelFileRefused as error:
            logger.error("model {} cannot be loaded: {}", model_id, error)
            return None
        return model

    def _filed(self, model_id: str, row: RegistryRow | None) -> tuple[ModelType, str | None, str] | None:
        """Type, hash and file name of a registered model; without a store, of one whose file lies in the directory."""
        if row is not None:
            return row.metadata.model_type, row.artefact_sha256, row.model_path or ""
        if model_id in self._unstored:
            metadata, sha256, name = self._unstored[model_id]
            return metadata.model_type, sha256, name
        of_type = next((one for one in ModelType if model_id.startswith(one.value)), None)
        if self.db is not None or of_type is None:
            return None
        names = (model_id + suffix for suffix in (_SUFFIX, _FOREIGN_SUFFIX))
        found = next((name for name in names if _SAFE_NAME.fullmatch(name) and (self.model_dir / name).is_file()), None)
        return None if found is None else (of_type, None, found)

    def take_over(self) -> int:
        """Enter into the store the bytes of registered models that lie only in the directory; of how many.

        Files that are missing or altered are left out: `load` says what is wrong with them.
        """
        taken = 0
        for model_id, name, sha256 in [] if self.db is None else self.db.artefacts.missing():
            try:
                self._file(self._path(name), sha256)
            except ModelFileRefused as error:
                logger.debug("the file of model {} was not taken over: {}", model_id, error)
                continue
            taken += 1
        return taken

    def _read(self, model: BaseModel, path: Path, sha256: str | None) -> None:
        data = self._bytes(path, sha256)
        if isinstance(model, ArtefactModel):
            model.from_bytes(data, sha256=sha256)
            return
        if not path.is_file() or artefact.read_file(path) != data:
            artefact.write_file(path, data)  # a class of someone else's reads nothing but files
        _own(model, "load", path)

    def _bytes(self, path: Path, sha256: str | None) -> bytes:
        """What the store keeps, or else the file holds; verified."""
        data = None if self.db is None or sha256 is None else self.db.artefacts.data(sha256)
        if data is None or sha256 is None:
            return self._file(path, sha256)
        try:
            artefact.check_hash(data, sha256)
        except ModelFileRefused as altered:
            try:
                return self._file(path, sha256)
            except ModelFileRefused as error:
                raise ModelFileRefused(f"what the store keeps of it was altered, and of its file: {error}") from altered
        return data

    def _file(self, path: Path, sha256: str | None) -> bytes:
        """What the file holds, verified, and entered into the store where that has not got it."""
        data = artefact.read_file(path)
        if sha256 is not None:
            artefact.check_hash(data, sha256)
            if self.db is not None and not self.db.read_only:
                with self.db.atomic():
                    self.db.artefacts.keep(data)
        return data

    def _write(self, model: BaseModel) -> tuple[Path, bytes]:
        """The model's file, written for good, and what it holds."""
        if isinstance(model, ArtefactModel):
            path, data = self._path(model.model_id + _SUFFIX), model.to_bytes()
            artefact.write_file(path, data)
            return path, data
        path = self._path(model.model_id + _FOREIGN_SUFFIX)
        _own(model, "save", path)
        return path, artefact.read_file(path)

    def _path(self, name: str) -> Path:
        """A model's file. The name is checked before it becomes part of a path."""
        if not _SAFE_NAME.fullmatch(name):
            raise ModelFileRefused(f"{name!r} cannot name a model file")
        return self.model_dir / name


def _own(model: BaseModel, method: Literal["save", "load"], path: Path) -> None:
    """Ask a class of someone else's to read or write its file."""
    called = f"{type(model).__name__}.{method}"
    try:
        done = getattr(model, method)(str(path))
    except Exception as error:  # whatever it raises, the file was not read or written
        raise ModelFileRefused(f"{called}: {type(error).__name__}: {error}") from error
    if not done:
        raise ModelFileRefused(f"{called} answered {done!r} for {path.name}")


def _foreign_name(model: BaseModel) -> str | None:
    """The class that wrote a file which is none of ours."""
    return None if isinstance(model, ArtefactModel) else type(model).__name__


def _finite_metadata(metadata: ModelMetadata) -> ModelMetadata:
    """Without what is no number: an AUC of one class, say. The store holds finite figures only."""
    figures = ("train_metrics", "validation_metrics", "feature_importance")
    kept: dict[str, Any] = {
        name: {k: v for k, v in getattr(metadata, name).items() if math.isfinite(v)} for name in figures
    }
    dropped = [key for name in figures for key in getattr(metadata, name) if key not in kept[name]]
    if dropped:
        logger.warning("model {}: left out, since not finite: {}", metadata.model_id, ", ".join(dropped))
    return replace(metadata, **kept)


def predecessors(ledger: Iterable[Promotion]) -> list[str]:
    """Models that served before the one that serves, the latest first.

    Args:
        ledger: entries of one model type, oldest first.
    """
    served: list[str] = []
    for entry in ledger:
        if entry.action != "activate" or entry.model_id is None:
            continue
        if ROLLED_BACK in entry.figures and entry.model_id in served:
            while served[-1] != entry.model_id:
                served.pop()
        elif not served or served[-1] != entry.model_id:
            served.append(entry.model_id)
    return served[-2::-1]


def model_before(db: FeatureDatabase, model_type: ModelType) -> str | None:
    """The model that rolling back would let serve; None where no other served before.

    By the ledger: rolling back twice goes back two steps.
    """
    return next(iter(predecessors(reversed(db.models.promotions(_LEDGER, model_type.value)))), None)


def roll_back(
    db: FeatureDatabase,
    registry: ModelRegistry,
    model_type: ModelType,
    *,
    reason: str,
    actor: str | None = None,
    pin: bool = False,
) -> tuple[str, str]:
    """Let the model that served before serve again, as proven as it was: (the one that served, the one that does now).

    `actor` None is this process's user; `pin`: no training takes its place until it is unpinned.

    Raises:
        UnknownModel: no model serves, or none served before it.
        ModelFileRefused: the earlier one's file cannot be trusted; what served goes on serving.
        StaleActivation: another model was activated in between.
    """
    active = db.models.active_id(model_type.value)
    if active is None:
        raise UnknownModel("no model serves: there is nothing to roll back")
    earlier = model_before(db, model_type)
    if earlier is None:
        raise UnknownModel(f"no model served before {active}")
    registry.promote(
        earlier, reason=reason, figures={ROLLED_BACK: active}, expected_active=active, actor=actor, pin=pin
    )
    return active, earlier
