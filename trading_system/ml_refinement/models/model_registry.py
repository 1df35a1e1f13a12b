"""Which models there are, where their files lie, which one serves, and the way back to the one before."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from loguru import logger

from trading_system.ml_refinement.config import ModelMetadata, ModelType
from trading_system.ml_refinement.models import artefact
from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.models.model import BaseModel
from trading_system.ml_refinement.models.regime_classifier import RegimeClassifier
from trading_system.ml_refinement.models.return_predictor import ReturnPredictor
from trading_system.ml_refinement.models.risk_predictor import RiskPredictor
from trading_system.ml_refinement.models.signal_quality import SignalQualityModel
from trading_system.ml_refinement.storage.errors import UnknownModel
from trading_system.ml_refinement.storage.feature_db import FeatureDatabase
from trading_system.ml_refinement.storage.tables.models import ANY, ROLLED_BACK, Promotion, RegistryRow, Unconditional

_SAFE_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_SUFFIX = ".skops"
#: So many of the ledger's newest entries are looked at for the model before.
_LEDGER = 10_000


class ModelRegistry:
    """Model files in one directory, their rows in the store.

    A file is complete on disk before its row exists, and is read only if it hashes to what its row says. Without a
    store the registry remembers for as long as it lives.

    Example:
        registry = ModelRegistry("models/", db)
        registry.register(model)
        registry.activate(model.model_id)
        serving = registry.get_active(ModelType.SIGNAL_QUALITY)
    """

    MODEL_CLASSES: ClassVar[Mapping[ModelType, Callable[[], BaseModel]]] = {
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
        self._serving: dict[ModelType, BaseModel] = {}
        self._unstored: dict[str, tuple[ModelMetadata, str]] = {}

    def register(self, model: BaseModel, *, recipe: str | None = None, run_id: str | None = None) -> bool:
        """Write the model's file and enter it, not serving. False: it is not fitted.

        Raises:
            OSError: the file could not be written; nothing was entered.
            ModelFileRefused: the model's id cannot be a file name.
        """
        if not model.is_fitted:
            logger.error("model {} is not fitted and was not registered", model.model_id)
            return False
        path = self._path(model.model_id)
        data = model.to_bytes()
        artefact.write_file(path, data)
        sha256 = hashlib.sha256(data).hexdigest()
        if self.db is None:
            self._unstored[model.model_id] = (model.get_metadata(), sha256)
        else:
            self.db.models.register(
                model.get_metadata(),
                model_path=path.name,
                artefact_sha256=sha256,
                feature_version=model.feature_version or None,
                recipe=recipe if recipe is not None else getattr(model, "recipe", None),
                run_id=run_id,
            )
        logger.info("registered model {}", model.model_id)
        return True

    def activate(
        self,
        model_id: str,
        *,
        reason: str = "activated by hand",
        figures: Mapping[str, Any] | None = None,
        proven: bool | None = None,
        run_id: str | None = None,
        expected_active: str | Unconditional | None = ANY,
        fence: int | None = None,
    ) -> bool:
        """Let a model serve, once its file was read and verified. False: there is no such model.

        `proven` None leaves it as it was. `expected_active` and `fence` are those of `Models.activate`.

        Raises:
            ModelFileRefused: its file is missing, altered or malformed; what served goes on serving.
            StaleActivation: another model is active than expected, or a newer training run has begun.
        """
        row = self._row(model_id)
        if row is None and model_id not in self._unstored:
            logger.error("there is no model {!r} to activate", model_id)
            return False
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
            )
        self._serving[model.model_type] = model
        logger.info("model {} serves: {}", model_id, reason)
        return True

    def get_active(self, model_type: ModelType) -> BaseModel | None:
        """The model of that type that serves now, as the store says at this moment; None where none does.

        Raises:
            ModelFileRefused: the serving model's file cannot be trusted.
        """
        cached = self._serving.get(model_type)
        if self.db is None:
            return cached
        active_id = self.db.models.active_id(model_type.value)
        if active_id is None:
            self._serving.pop(model_type, None)
            return None
        if cached is None or cached.model_id != active_id:
            self._serving[model_type] = cached = self.load(active_id)
        return cached

    def load(self, model_id: str) -> BaseModel:
        """Any registered model, its file verified against the hash in the store before a byte of it is parsed.

        Raises:
            ModelFileRefused: unknown, no hash, or a file that is missing, altered or malformed.
        """
        row = self._row(model_id)
        if row is not None:
            metadata, sha256, name = row.metadata, row.artefact_sha256, row.model_path
        elif model_id in self._unstored:
            (metadata, sha256), name = self._unstored[model_id], model_id + _SUFFIX
        else:
            raise ModelFileRefused(f"there is no model {model_id!r}")
        if sha256 is None or name != model_id + _SUFFIX:
            raise ModelFileRefused(f"{model_id}: the store knows no file of ours for it")
        model_class = self.MODEL_CLASSES.get(metadata.model_type)
        if model_class is None:
            raise ModelFileRefused(f"{model_id}: there is no class for {metadata.model_type.value}")
        model = model_class()
        model.load(str(self._path(model_id)), sha256=sha256)
        if model.model_id != model_id:
            raise ModelFileRefused(f"{model_id}: the file holds {model.model_id}")
        return model

    def get_model_history(self, model_type: ModelType, limit: int = 10) -> list[ModelMetadata]:
        """Registered models of a type, newest first."""
        if self.db is not None:
            return self.db.get_model_history(model_type.value, limit)
        known = [metadata for metadata, _ in self._unstored.values() if metadata.model_type == model_type]
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

    def _path(self, model_id: str) -> Path:
        """The model's file. The id is checked before it becomes part of a path."""
        if not _SAFE_ID.fullmatch(model_id):
            raise ModelFileRefused(f"{model_id!r} cannot name a model file")
        return self.model_dir / (model_id + _SUFFIX)


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


def roll_back(db: FeatureDatabase, registry: ModelRegistry, model_type: ModelType, *, reason: str) -> tuple[str, str]:
    """Let the model that served before serve again, as proven as it was: (the one that served, the one that does now).

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
    registry.activate(earlier, reason=reason, figures={ROLLED_BACK: active}, expected_active=active)
    return active, earlier
