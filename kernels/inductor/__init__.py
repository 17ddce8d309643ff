"""The fused steps inside the programs that Inductor generates."""
