"""The registry of models, which of them serves, and the append-only ledger of how that came to be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, Literal, NamedTuple

import orjson

from trading_system.ml_refinement.actors import GATE, acting_user
from trading_system.ml_refinement.config import ModelMetadata, ModelType
from trading_system.ml_refinement.storage.connection import Connection, Row
from trading_system.ml_refinement.storage.errors import PickledModel, StaleActivation, UnknownModel
from trading_system.ml_refinement.storage.json_text import finite_json
from trading_system.ml_refinement.storage.notifications.occasions import of_ledger
from trading_system.ml_refinement.storage.notifications.table import Notifications
from trading_system.ml_refinement.storage.shared.artefacts import Artefacts
from trading_system.ml_refinement.storage.statement import Statement
from trading_system.ml_refinement.storage.times import Clock, utc_text

Action = Literal["activate", "retire", "prove", "demote", "hold", "reject", "pin", "unpin"]


class Unconditional(Enum):
    """The type of `ANY`."""

    ANY = "any"


#: `expected_active=ANY`: whichever model is active now may be replaced.
ANY: Final = Unconditional.ANY

#: How the name of a model file ends that needs no class of somebody else's.
OUR_FILES: Final = ".skops"

#: The figure in a ledger entry that tells a rollback from any other activation.
ROLLED_BACK = "rolled_back_from"

#: The figure in a ledger entry that says by its code why a model is not proven, or why its proof ended.
NOT_PROVEN = "not_proven"


@dataclass(frozen=True, slots=True)
class RegistryRow:
    """A registered model: what it is, which file it is, and whether it serves."""

    metadata: ModelMetadata
    model_path: str
    artefact_sha256: str | None
    feature_version: str | None
    recipe: str | None
    run_id: str | None
    proven: bool
    retired_at: str | None
    #: Since when and by whom it is pinned: no training takes its place until it is unpinned.
    pinned_at: str | None = None
    pinned_by: str | None = None

    @property
    def model_id(self) -> str:
        return self.metadata.model_id

    @property
    def is_pickled(self) -> bool:
        """Whether another program made and entered its file, as the specification's own code does."""
        return self.artefact_sha256 is None and not self.model_path.endswith(OUR_FILES)

    @property
    def is_active(self) -> bool:
        return self.metadata.is_active


@dataclass(frozen=True, slots=True)
class ServingModel:
    """A model that is asked about live signals: one that serves, or the candidate that is watched beside it."""

    model_id: str
    model_type: ModelType
    proven: bool
    candidate: bool


class ModelFile(NamedTuple):
    """The file of a registered model: its name in the models' directory, and the hash it was registered with."""

    model_id: str
    name: str
    sha256: str | None
    serves: bool


@dataclass(frozen=True, slots=True)
class Promotion:
    """One entry of the ledger."""

    id: int
    at: str
    model_type: str
    action: Action
    model_id: str | None
    previous_model_id: str | None
    artefact_sha256: str | None
    proven: bool
    reason: str
    figures: dict[str, Any]
    run_id: str | None
    #: Who did it: a user, the console's operator, the gate; None where it was not kept.
    actor: str | None = None


class Models:
    """The tables `model_registry` and `promotions`."""

    def __init__(self, connection: Connection, clock: Clock, artefacts: Artefacts) -> None:
        self._connection = connection
        self._clock = clock
        self._artefacts = artefacts
        self._notifications = Notifications(connection)

    def register(
        self,
        metadata: ModelMetadata,
        *,
        model_path: str | None = None,
        artefact_sha256: str | None = None,
        feature_version: str | None = None,
        recipe: str | None = None,
        run_id: str | None = None,
        data: bytes | None = None,
    ) -> None:
        """Enter a trained model, not serving and not proven. Its file, if it has one, must be complete on disk already.

        `data`, the bytes that hash to `artefact_sha256`, are kept with it, in the same transaction.

        Raises:
            ConstraintRefused: the id is taken.
            ValueError: a metric or an importance is not finite, or `data` hash to something else.
        """
        plain = [getattr(metadata, name) for name in PLAIN_FIELDS]
        documents = [finite_json(getattr(metadata, name)) for name in JSON_FIELDS]
        artefact = model_path or metadata.model_id + OUR_FILES, artefact_sha256, feature_version, recipe, run_id
        params = (metadata.model_id, ModelType(metadata.model_type).value, *plain, *documents, *artefact)
        with self._connection.atomic():
            self._connection.run(REGISTER, params)
            if data is not None and self._artefacts.keep(data) != artefact_sha256:
                raise ValueError(f"{metadata.model_id}: the bytes are not those of the hash")

    def get(self, model_id: str) -> RegistryRow | None:
        """One model."""
        row = self._connection.one(f"{SELECT} WHERE model_id = ?", (model_id,))
        return None if row is None else _registry_row(row)

    def with_part(self, part: str, *, limit: int) -> list[str]:
        """Ids of registered models in which that text stands, the newest first."""
        return [model_id for (model_id,) in self._connection.query(WITH_PART, (part, limit))]

    def active(self, model_type: str) -> RegistryRow | None:
        """The model of that type that serves, or None."""
        row = self._connection.one(f"{SELECT} WHERE model_type = ? AND is_active = 1", (model_type,))
        return None if row is None else _registry_row(row)

    def active_id(self, model_type: str) -> str | None:
        """The id of the model that serves, or None: cheap enough to ask before every batch."""
        row = self._connection.one(ACTIVE_ID, (model_type,))
        return None if row is None else str(row[0])

    def serving(self, candidates_of: str) -> tuple[ServingModel, ...]:
        """All models that serve, and the newest of one type where it never served: cheap enough before every batch."""
        rows = self._connection.query(SERVING, (candidates_of,))
        return tuple(ServingModel(row[0], ModelType(row[1]), bool(row[2]), bool(row[3])) for row in rows)

    def history(self, model_type: str | None = None, limit: int = 10) -> list[RegistryRow]:
        """Registered models, newest first, of one type or of all."""
        where, params = ("WHERE model_type = ?", (model_type,)) if model_type else ("", ())
        sql = f"{SELECT} {where} ORDER BY created_at DESC, id DESC LIMIT ?"
        return [_registry_row(row) for row in self._connection.query(sql, (*params, limit))]

    def files(self) -> list[ModelFile]:
        """The file of every registered model."""
        rows = self._connection.query(FILES)
        return [ModelFile(model_id, name, sha256, bool(serves)) for model_id, name, sha256, serves in rows]

    def base_rates(self, model_ids: Iterable[str]) -> dict[str, float]:
        """The win rates of those models' training rows; a model that was registered without one is left out."""
        return dict(self._connection.query(BASE_RATES, (orjson.dumps(list(model_ids)).decode(),)))

    def alike(self, model: RegistryRow, *, proven: bool) -> list[str]:
        """The models of the same recipe on the same features; `proven`: those that are, or were when retired."""
        given = (model.metadata.model_type.value, model.recipe, model.feature_version, proven)
        return [model_id for (model_id,) in self._connection.query(ALIKE, given)]

    def recipes(self, model_type: str) -> set[tuple[str, str | None]]:
        """Every recipe that a model was ever registered with, beside the feature version it was trained on."""
        return {(recipe, version) for recipe, version in self._connection.query(RECIPES, (model_type,))}

    def activate(
        self,
        model_id: str,
        *,
        reason: str,
        figures: Mapping[str, Any] | None = None,
        proven: bool = False,
        run_id: str | None = None,
        expected_active: str | Unconditional | None = ANY,
        fence: int | None = None,
        actor: str | None = None,
        pin: bool = False,
    ) -> None:
        """Let a model serve: the one before is retired and the ledger written in the same transaction.

        `actor` None is the gate for what a run activates, and this process's user for the rest. Activating the one
        that serves already, equally proven, changes nothing. `fence` is the token that `runs.start` gave: the run must
        be the newest of its model type and not have failed. A pin on the model before ends, unless it is a training
        (`run_id`) that asks: pinned models are not replaced by trainings. `pin`: this one is, from now on.

        Raises:
            UnknownModel: the model is not registered.
            PickledModel: its file is not one of ours.
            StaleActivation: another model is active than `expected_active`, the fence is passed, or a training would
                replace a pinned model.
        """
        with self._connection.atomic():
            row = self.get(model_id)
            if row is None:
                raise UnknownModel(f"no model {model_id!r} in the registry")
            if row.is_pickled:
                raise PickledModel(
                    f"{model_id}: its file {row.model_path} is a pickle, which is never loaded; train anew"
                )
            model_type = row.metadata.model_type.value
            before = self.active_id(model_type)
            if expected_active is not ANY and before != expected_active:
                raise StaleActivation(f"the active {model_type} is {before!r}, not {expected_active!r}")
            self._pass_fence(model_type, fence)
            was_proven = before is not None and self._is_proven(before)
            if before != model_id or row.proven != proven:
                if before is not None and before != model_id:
                    self._end_pin(model_type, before, run_id, actor)
                now = utc_text(self._clock())
                self._connection.run(RETIRE, (now, model_type, model_id))
                self._connection.run(ACTIVATE, (now, proven, model_id))
                by = actor or (acting_user() if run_id is None else GATE)
                told = model_type, model_id, before, reason, figures, run_id, by
                self._enter("activate", *told, was_proven=was_proven)
            if pin:
                self.pin(model_id, reason=reason, actor=actor)

    def pinned(self, model_type: str) -> RegistryRow | None:
        """The serving model of that type that no training may replace; None where none is pinned."""
        row = self._connection.one(f"{SELECT} WHERE model_type = ? AND pinned_at IS NOT NULL", (model_type,))
        return None if row is None else _registry_row(row)

    def pin(self, model_id: str, *, reason: str, actor: str | None = None) -> bool:
        """Keep the serving model from being replaced by trainings. False: it was pinned already.

        `actor` None is this process's user.

        Raises:
            UnknownModel: the model is not registered.
            StaleActivation: it does not serve.
        """
        with self._connection.atomic():
            row = self.get(model_id)
            if row is None:
                raise UnknownModel(f"no model {model_id!r} in the registry")
            if not row.is_active:
                raise StaleActivation(f"{model_id} does not serve: only a model that serves can be pinned")
            if row.pinned_at is not None:
                return False
            by = actor or acting_user()
            self._connection.run(PIN, (utc_text(self._clock()), by, model_id))
            self._enter("pin", row.metadata.model_type.value, model_id, model_id, reason, None, None, by)
            return True

    def unpin(self, model_type: str, *, reason: str, actor: str | None = None) -> str | None:
        """Let trainings replace the serving model of that type again; its id, None where none was pinned."""
        by = actor or acting_user()
        with self._connection.atomic():
            row = self.pinned(model_type)
            if row is None:
                return None
            self._connection.run(UNPIN, (row.model_id,))
            self._enter("unpin", model_type, row.model_id, row.model_id, reason, None, None, by)
            return row.model_id

    def retire(
        self, model_id: str, *, reason: str, figures: Mapping[str, Any] | None = None, actor: str | None = None
    ) -> bool:
        """Take the serving model out of service, without a successor. False when it did not serve."""
        with self._connection.atomic():
            row = self.get(model_id)
            if row is None or not row.is_active:
                return False
            model_type = row.metadata.model_type.value
            self._end_pin(model_type, model_id, None, actor)
            self._connection.run(RETIRE, (utc_text(self._clock()), model_type, ""))
            by = actor or acting_user()
            self._enter("retire", model_type, None, model_id, reason, figures, None, by, was_proven=row.proven)
            return True

    def set_proven(
        self,
        model_id: str,
        proven: bool,
        *,
        reason: str,
        figures: Mapping[str, Any] | None = None,
        actor: str | None = None,
    ) -> bool:
        """Prove a provisional model, or demote a proven one. False when it is so already.

        Raises:
            UnknownModel: the model is not registered.
        """
        with self._connection.atomic():
            row = self.get(model_id)
            if row is None:
                raise UnknownModel(f"no model {model_id!r} in the registry")
            if row.proven == proven:
                return False
            self._connection.run("UPDATE model_registry SET proven = ? WHERE model_id = ?", (proven, model_id))
            action: Action = "prove" if proven else "demote"
            by = actor or acting_user()
            kind = row.metadata.model_type.value
            self._enter(action, kind, model_id, model_id, reason, figures, None, by, was_proven=row.proven)
            return True

    def note_verdict(
        self,
        action: Literal["hold", "reject"],
        model_id: str,
        *,
        reason: str,
        figures: Mapping[str, Any] | None = None,
        run_id: str | None = None,
    ) -> None:
        """Enter into the ledger that the gate did not let a candidate through.

        Raises:
            UnknownModel: the model is not registered.
        """
        with self._connection.atomic():
            row = self.get(model_id)
            if row is None:
                raise UnknownModel(f"no model {model_id!r} in the registry")
            model_type = row.metadata.model_type.value
            self._enter(action, model_type, model_id, self.active_id(model_type), reason, figures, run_id, GATE)

    def promotions(
        self, limit: int = 50, model_type: str | None = None, *, model_id: str | None = None
    ) -> list[Promotion]:
        """The ledger, newest first; of one model type or one model where that is given."""
        given = {"model_type": model_type, "model_id": model_id}
        params = [value for value in given.values() if value is not None]
        where = " AND ".join(f"{name} = ?" for name, value in given.items() if value is not None) or "TRUE"
        rows = self._connection.query(f"{LEDGER} WHERE {where} ORDER BY id DESC LIMIT ?", (*params, limit))
        return [_promotion(row) for row in rows]

    def last_proof(self, model_type: str) -> Promotion | None:
        """The newest entry by which a model of that type served as proven, or its proof ended."""
        rows = self._connection.query(LAST_PROOF, (model_type,))
        return _promotion(rows[0]) if rows else None

    def first_proof_since_the_last_end(self, model_type: str) -> Promotion | None:
        """The entry by which models of that type began to be proven, where no proof has ended since."""
        rows = self._connection.query(FIRST_PROOF, (model_type, model_type))
        return _promotion(rows[0]) if rows else None

    def last_about(self, model_id: str) -> Promotion | None:
        """The newest entry that lets the model serve or says why not; one with the gate's reason before any other."""
        rows = self._connection.query(LAST_ABOUT, (model_id,))
        return _promotion(rows[0]) if rows else None

    def _end_pin(self, model_type: str, model_id: str, run_id: str | None, actor: str | None) -> None:
        pin = self.pinned(model_type)
        if pin is None or pin.model_id != model_id:
            return
        if run_id is not None:
            raise StaleActivation(f"{model_id} is pinned by {pin.pinned_by}: no training takes its place")
        self._connection.run(UNPIN, (model_id,))
        by = actor or acting_user()
        self._enter("unpin", model_type, model_id, model_id, "it stopped serving", None, None, by)

    def _pass_fence(self, model_type: str, fence: int | None) -> None:
        if fence is None:
            return
        row = self._connection.one(NEWEST_RUN, (model_type,))
        if row is None or row[0] != fence:
            raise StaleActivation(f"training run {fence} of {model_type} is not the newest any more")
        if row[1] == "failed":
            raise StaleActivation(f"training run {fence} of {model_type} was given up")

    def _enter(
        self,
        action: Action,
        model_type: str,
        model_id: str | None,
        previous: str | None,
        reason: str,
        figures: Mapping[str, Any] | None,
        run_id: str | None,
        actor: str,
        *,
        was_proven: bool = False,
    ) -> None:
        now = utc_text(self._clock())
        params = (
            now,
            model_type,
            action,
            previous,
            reason,
            finite_json(dict(figures or {})),
            run_id,
            model_id,
            model_id,
            model_id,
            actor,
        )
        self._connection.run(ENTER, params)
        proven, rolled_back = model_id is not None and self._is_proven(model_id), ROLLED_BACK in (figures or {})
        kind = of_ledger(action, model_type, was_proven=was_proven, is_proven=proven, rolled_back=rolled_back)
        if kind is not None:
            details = {
                "model_type": model_type,
                "model_id": model_id,
                "previous_model_id": previous,
                "proven": proven,
                "reason": reason,
                "reason_code": (figures or {}).get(NOT_PROVEN),
                "run_id": run_id,
                "actor": actor,
            }
            self._notifications.add(kind, details, at=now)

    def _is_proven(self, model_id: str) -> bool:
        return bool(self._connection.query("SELECT proven FROM model_registry WHERE model_id = ?", (model_id,))[0][0])


PLAIN_FIELDS = "version", "created_at", "train_start_date", "train_end_date", "train_samples", "validation_samples"
JSON_FIELDS = "train_metrics", "validation_metrics", "feature_names", "feature_importance"
# The literals are ours alone; every value is bound.
REGISTER = """
    INSERT INTO model_registry (model_id, model_type, version, created_at, train_start_date, train_end_date,
        train_samples, validation_samples, train_metrics, validation_metrics, feature_names, feature_importance,
        model_path, artefact_sha256, feature_version, recipe, run_id)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"""
SELECT = """
    SELECT model_id, model_type, version, created_at, train_start_date, train_end_date, train_samples,
        validation_samples, train_metrics, validation_metrics, feature_names, feature_importance, is_active,
        deployed_at, model_path, artefact_sha256, feature_version, recipe, run_id, proven, retired_at, pinned_at,
        pinned_by
    FROM model_registry"""
WITH_PART = Statement(
    "SELECT model_id FROM model_registry WHERE instr(model_id, ?) > 0 ORDER BY id DESC LIMIT ?",
    postgres="SELECT model_id FROM model_registry WHERE strpos(model_id, ?) > 0 ORDER BY id DESC LIMIT ?",
)
ACTIVE_ID = "SELECT model_id FROM model_registry WHERE model_type = ? AND is_active = 1"
FILES = "SELECT model_id, model_path, artefact_sha256, is_active FROM model_registry"
SERVING = """
    SELECT model_id, model_type, proven, 0 FROM model_registry WHERE is_active = 1
    UNION ALL
    SELECT model_id, model_type, proven, 1 FROM model_registry
    WHERE id = (SELECT max(id) FROM model_registry WHERE model_type = ?) AND is_active = 0 AND deployed_at IS NULL
        AND retired_at IS NULL"""
BASE_RATES = Statement(
    """
    SELECT m.model_id, m.train_metrics ->> 'base_rate' AS rate
    FROM json_each(?) AS wanted CROSS JOIN model_registry AS m ON m.model_id = wanted.value WHERE rate IS NOT NULL""",
    postgres="""
    SELECT m.model_id, CAST(CAST(m.train_metrics AS jsonb) ->> 'base_rate' AS double precision)
    FROM jsonb_array_elements_text(CAST(? AS jsonb)) AS wanted JOIN model_registry AS m ON m.model_id = wanted.value
    WHERE CAST(m.train_metrics AS jsonb) ->> 'base_rate' IS NOT NULL""",
)
ALIKE = """
    SELECT model_id FROM model_registry
    WHERE model_type = ? AND recipe IS NOT DISTINCT FROM ? AND feature_version IS NOT DISTINCT FROM ? AND proven >= ?"""
RECIPES = "SELECT DISTINCT recipe, feature_version FROM model_registry WHERE model_type = ? AND recipe IS NOT NULL"
RETIRE = """
    UPDATE model_registry SET is_active = 0, retired_at = ?
    WHERE model_type = ? AND is_active = 1 AND model_id <> ?"""
ACTIVATE = "UPDATE model_registry SET is_active = 1, deployed_at = ?, retired_at = NULL, proven = ? WHERE model_id = ?"
PIN = "UPDATE model_registry SET pinned_at = ?, pinned_by = ? WHERE model_id = ?"
UNPIN = "UPDATE model_registry SET pinned_at = NULL, pinned_by = NULL WHERE model_id = ?"
NEWEST_RUN = "SELECT id, status FROM training_runs WHERE model_type = ? ORDER BY id DESC LIMIT 1"
ENTER = """
    INSERT INTO promotions (at, model_type, action, previous_model_id, reason, figures, run_id, model_id,
        artefact_sha256, proven, actor)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, (SELECT artefact_sha256 FROM model_registry WHERE model_id = ?),
        coalesce((SELECT proven FROM model_registry WHERE model_id = ?), 0), ?)"""
LEDGER = """
    SELECT id, at, model_type, action, model_id, previous_model_id, artefact_sha256, proven, reason, figures, run_id,
        actor
    FROM promotions"""
PROOFS = f"""{LEDGER}
    WHERE model_type = ? AND (action = 'demote' OR (action IN ('activate', 'prove') AND proven = 1))"""
LAST_PROOF = f"{PROOFS} ORDER BY id DESC LIMIT 1"
LAST_END = "(SELECT id FROM promotions WHERE model_type = ? AND action = 'demote' ORDER BY id DESC LIMIT 1)"
FIRST_PROOF = f"{PROOFS} AND id > coalesce({LAST_END}, 0) ORDER BY id LIMIT 1"
_ABOUT = f"{LEDGER} WHERE model_id = ? AND action IN ('activate', 'prove', 'demote', 'hold', 'reject')"
LAST_ABOUT = Statement(
    f"{_ABOUT} ORDER BY figures ->> '{NOT_PROVEN}' IS NULL, id DESC LIMIT 1",
    postgres=f"{_ABOUT} ORDER BY CAST(figures AS jsonb) ->> '{NOT_PROVEN}' IS NULL, id DESC LIMIT 1",
)


def metadata_of(row: Sequence[Any]) -> ModelMetadata:
    """The metadata in the first columns of `SELECT`."""
    fields = list(row)
    fields[1], fields[12] = ModelType(row[1]), bool(row[12])
    fields[8:12] = [
        orjson.loads(text or empty) for text, empty in zip(row[8:12], ("{}", "{}", "[]", "{}"), strict=True)
    ]
    return ModelMetadata(*fields)


def _registry_row(row: Row) -> RegistryRow:
    others = list(row[14:])
    others[5] = bool(row[19])
    return RegistryRow(metadata_of(row[:14]), *others)


def _promotion(row: Row) -> Promotion:
    fields = list(row)
    fields[7], fields[9] = bool(row[7]), orjson.loads(row[9])
    return Promotion(*fields)
