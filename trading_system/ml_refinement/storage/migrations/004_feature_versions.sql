-- Vectors by feature version: what a rebuild has left to do.
CREATE INDEX idx_fv_version ON feature_vectors(feature_version);

-- A rewrite that brings a list of names of its own has packed its values by it, though they be the same.
DROP TRIGGER features_edited;
CREATE TRIGGER features_edited AFTER UPDATE OF features ON feature_vectors
    WHEN NEW.packed IS NOT NULL AND NEW.packed IS OLD.packed AND NEW.list_id IS OLD.list_id BEGIN
    UPDATE feature_vectors SET packed = NULL, list_id = NULL WHERE id = NEW.id;
END;
