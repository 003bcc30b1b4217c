"""The evaluation engine: judges over traces, with every outcome accounted for."""
