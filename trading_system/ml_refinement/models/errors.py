"""What learning refuses to do, each with the reason code that ends up in `training_runs`."""

from __future__ import annotations

from typing import ClassVar


class LearningError(Exception):
    """A refusal with a name. `reason` is stable and machine-readable; the message says what was seen."""

    reason: ClassVar[str] = "learning_error"


class TooFewSamples(LearningError):
    """There are fewer usable labelled rows than training needs."""

    reason = "too_few_samples"


class OneClass(LearningError):
    """Every outcome is a win, or every outcome is a loss."""

    reason = "one_class"


class NoUsableFeatures(LearningError):
    """Every feature is constant or missing."""

    reason = "no_usable_features"


class LabelAmongFeatures(LearningError):
    """One feature alone separates wins from losses better than any honest feature can."""

    reason = "label_among_features"


class BadData(LearningError):
    """Shapes disagree, a target is not finite, or a feature is infinite."""

    reason = "bad_data"


class UnknownParameter(LearningError):
    """A recipe, scaling method or hyperparameter that does not exist, or a value that a hyperparameter cannot have."""

    reason = "unknown_parameter"


class ModelFileRefused(LearningError):
    """A model file that is missing, altered, too large, of other library versions, or not one of ours."""

    reason = "model_file_refused"


class FeatureContractError(LearningError):
    """The features offered are not those the model was fitted on, in name, order or version."""

    reason = "feature_contract"
