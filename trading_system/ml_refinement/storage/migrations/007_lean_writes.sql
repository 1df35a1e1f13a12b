-- What a signal costs to store: fewer indexes to keep, and rows that are stored by the batch counted by the batch.

-- The unique constraints answer what these two did.
DROP INDEX IF EXISTS idx_fv_signal_id;
DROP INDEX IF EXISTS idx_pred_signal;
-- A handful of values, each of a large part of the table: reading that part through an index is slower than a scan. What is
-- asked by label goes through idx_fv_training.
DROP INDEX IF EXISTS idx_fv_has_target;
DROP INDEX IF EXISTS idx_fv_asset_class;
DROP INDEX IF EXISTS idx_pred_model;

-- Counted where they are inserted: in vectors.py and scores.py, once for all rows of a statement.
DROP TRIGGER IF EXISTS count_vector;
DROP TRIGGER IF EXISTS count_prediction;
