"""Graph in, plan or graph out: detection of residual connections and their rewrite into streams."""
