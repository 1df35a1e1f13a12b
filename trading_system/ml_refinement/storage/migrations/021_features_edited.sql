-- A row that is written again as it is, as a copy of a store is brought up to date, keeps its packed values.
DROP TRIGGER features_edited;
CREATE TRIGGER features_edited AFTER UPDATE OF features ON feature_vectors
    WHEN NEW.packed IS NOT NULL AND NEW.features IS NOT OLD.features AND NEW.packed IS OLD.packed
        AND NEW.list_id IS OLD.list_id BEGIN
    UPDATE feature_vectors SET packed = NULL, list_id = NULL WHERE id = NEW.id;
END;
