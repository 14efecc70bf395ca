"""The workbench: it runs experiments, plays the wire, records, checks and draws."""
