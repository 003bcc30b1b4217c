-- The outbox of `assay watch`, beside MLflow's own database. Run once, when the data volume is new.
CREATE DATABASE assay;
