"""A boosted forest as plain arrays: predicts, saves and checks without the library that grew it.

Growing is scikit-learn's; once grown, its nodes are copied here. Prediction walks all trees of a row at once, and every
index is checked when a forest is built, so that an altered file is refused instead of reading out of bounds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
)

from trading_system.ml_refinement.models.errors import ModelFileRefused
from trading_system.ml_refinement.typing import BoolArray, FloatArray, IntArray

_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Forest:
    """Nodes of all trees, one after the other. A leaf is its own child.

    A row goes left where `x <= threshold`, or where x is missing and `missing_left` is set. `roots` has shape
    (n_trees,), every other array (n_nodes,).
    """

    baseline: float
    #: Compare features in single precision, as the estimator that grew the trees did.
    single_precision: bool
    depth: int
    roots: IntArray
    feature: IntArray
    threshold: FloatArray
    missing_left: BoolArray
    left: IntArray
    right: IntArray
    value: FloatArray
    gain: FloatArray

    def raw(self, X: FloatArray) -> FloatArray:
        """Sum of leaf values plus the baseline for X (n, n_features), shape (n,): a logit or a quantile, as grown."""
        parts = [self._raw(X[start : start + _ROWS_AT_ONCE]) for start in range(0, len(X), _ROWS_AT_ONCE)]
        return np.concatenate(parts) if parts else np.empty(0)

    def _raw(self, X: FloatArray) -> FloatArray:
        values = X.astype(np.float32).astype(np.float64) if self.single_precision else X
        missing = np.isnan(values).any()
        flat, row_start = values.ravel(), np.arange(0, values.size, max(values.shape[1], 1))[:, None]
        children = np.column_stack([self.left, self.right]).ravel()
        node = np.broadcast_to(self.roots, (len(X), len(self.roots)))
        for _ in range(self.depth):
            x = flat.take(row_start + self.feature.take(node))
            go_right = ~(x <= self.threshold.take(node))
            if missing:
                go_right &= ~(np.isnan(x) & self.missing_left.take(node))
            node = children.take(2 * node + go_right)
        return np.asarray(self.value.take(node).sum(axis=1) + self.baseline, dtype=np.float64)

    def gain_by_feature(self, n_features: int) -> FloatArray:
        """Total split gain of each feature, shape (n_features,)."""
        gains = np.bincount(self.feature, weights=self.gain, minlength=n_features)
        return np.asarray(gains, dtype=np.float64)

    def state(self) -> dict[str, Any]:
        """Plain values only; the inverse of `from_state`."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], *, n_features: int) -> Forest:
        """Rebuild, refusing any node that points outside its forest.

        Raises:
            ModelFileRefused: a field is missing, of another shape or type, or an index is out of range.
        """
        try:
            forest = cls(**{field.name: state[field.name] for field in fields(cls)})
            forest._check(n_features)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ModelFileRefused(f"the forest's arrays are malformed: {error}") from error
        return forest

    def _check(self, n_features: int) -> None:
        n_nodes = len(self.feature)
        wanted = {"threshold": "f", "missing_left": "b", "left": "i", "right": "i", "value": "f", "gain": "f"}
        for name, kind in {**wanted, "feature": "i", "roots": "i"}.items():
            array = getattr(self, name)
            if array.dtype.kind != kind or array.ndim != 1 or (name != "roots" and len(array) != n_nodes):
                raise ValueError(name)
        for name, bound in (("roots", n_nodes), ("left", n_nodes), ("right", n_nodes), ("feature", n_features)):
            array = getattr(self, name)
            if array.size and (array.min() < 0 or array.max() >= bound):
                raise ValueError(f"{name} out of range")
        if not 0 <= self.depth <= 64 or not np.isfinite(self.value).all() or not np.isfinite(self.baseline):
            raise ValueError("depth or values")


def from_histogram_boosting(
    grown: HistGradientBoostingClassifier | HistGradientBoostingRegressor,
) -> Forest:
    """The forest of a fitted histogram gradient boosting of one output."""
    trees = [stage[0].nodes for stage in grown._predictors]
    starts = _starts([len(nodes) for nodes in trees])
    nodes = np.concatenate(trees)
    leaf = nodes["is_leaf"].astype(bool)
    offset = np.repeat(starts, [len(tree) for tree in trees])
    own = np.arange(len(nodes))
    return Forest(
        baseline=float(np.ravel(grown._baseline_prediction)[0]),
        single_precision=False,
        depth=int(nodes["depth"].max(initial=0)),
        roots=starts,
        feature=np.where(leaf, 0, nodes["feature_idx"]).astype(np.int64),
        threshold=np.where(leaf, 0.0, nodes["num_threshold"]),
        missing_left=nodes["missing_go_to_left"].astype(bool),
        left=np.where(leaf, own, nodes["left"].astype(np.int64) + offset),
        right=np.where(leaf, own, nodes["right"].astype(np.int64) + offset),
        value=np.where(leaf, nodes["value"], 0.0),
        gain=np.where(leaf, 0.0, nodes["gain"]),
    )


def from_gradient_boosting(grown: GradientBoostingClassifier, *, medians: FloatArray) -> Forest:
    """The forest of a fitted two-class gradient boosting.

    A missing value goes where the feature's training median goes, which is median imputation without the imputer:
    `medians` has shape (n_features,).
    """
    trees = [stage[0].tree_ for stage in grown.estimators_]
    starts = _starts([tree.node_count for tree in trees])
    offset = np.repeat(starts, [tree.node_count for tree in trees])
    joined = {
        name: np.concatenate([getattr(tree, name) for tree in trees])
        for name in ("children_left", "children_right", "feature", "threshold")
    }
    leaf = joined["children_left"] < 0
    own = np.arange(len(leaf))
    feature = np.where(leaf, 0, joined["feature"]).astype(np.int64)
    threshold = np.where(leaf, 0.0, joined["threshold"])
    value = np.concatenate([tree.value[:, 0, 0] for tree in trees])
    prior = float(grown.init_.class_prior_[1])
    return Forest(
        baseline=float(np.log(prior / (1.0 - prior))),
        single_precision=True,
        depth=max(int(tree.max_depth) for tree in trees),
        roots=starts,
        feature=feature,
        threshold=threshold,
        missing_left=medians.astype(np.float32)[feature] <= threshold,
        left=np.where(leaf, own, joined["children_left"] + offset),
        right=np.where(leaf, own, joined["children_right"] + offset),
        value=np.where(leaf, value * float(grown.learning_rate), 0.0),
        gain=np.concatenate([_impurity_decrease(tree) for tree in trees]),
    )


def _starts(sizes: Sequence[int]) -> IntArray:
    return np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)


def _impurity_decrease(tree: Any) -> FloatArray:
    leaf = tree.children_left < 0
    weighted = tree.weighted_n_node_samples * tree.impurity
    decrease = weighted - weighted[tree.children_left] - weighted[tree.children_right]
    return np.where(leaf, 0.0, decrease)
