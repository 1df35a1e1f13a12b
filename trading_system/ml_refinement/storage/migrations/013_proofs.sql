-- How what serves stands, and what the ledger says of one model, are looked up at every status and scrape.

CREATE INDEX idx_promotions_proofs ON promotions(model_type, id)
    WHERE action = 'demote' OR (action IN ('activate', 'prove') AND proven = 1);
CREATE INDEX idx_promotions_model ON promotions(model_id);
