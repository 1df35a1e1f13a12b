-- All indexes of step 1 stand again, whatever an earlier release dropped.
CREATE INDEX IF NOT EXISTS idx_fv_signal_id ON feature_vectors(signal_id);
CREATE INDEX IF NOT EXISTS idx_fv_asset_class ON feature_vectors(asset_class);
CREATE INDEX IF NOT EXISTS idx_fv_has_target ON feature_vectors(target_r_multiple IS NOT NULL);
CREATE INDEX IF NOT EXISTS idx_pred_signal ON prediction_log(signal_id);
CREATE INDEX IF NOT EXISTS idx_pred_model ON prediction_log(model_id);

-- The specification's index on the signal finds the handful of predictions that one signal has: that there is one for each
-- model needs no second index of the same order. `+`: never through idx_pred_model, which finds all of a model.
DROP INDEX idx_pred_signal_model;
CREATE TRIGGER prediction_once BEFORE INSERT ON prediction_log
    WHEN EXISTS (SELECT 1 FROM prediction_log WHERE signal_id = NEW.signal_id AND +model_id = NEW.model_id) BEGIN
    SELECT raise(IGNORE);
END;

-- Nearly always no outcome waits, and then a vector asks for none.
DROP TRIGGER count_awaited;
CREATE TRIGGER count_awaited AFTER INSERT ON feature_vectors
    WHEN EXISTS (SELECT 1 FROM counters WHERE name = 'waiting_outcomes' AND value > 0)
        AND EXISTS (SELECT 1 FROM trade_outcomes WHERE signal_id = NEW.signal_id) BEGIN
    UPDATE counters SET value = value - (SELECT count(*) FROM trade_outcomes WHERE signal_id = NEW.signal_id)
        WHERE name = 'waiting_outcomes';
END;
