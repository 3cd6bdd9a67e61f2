"""The stages of the pipeline: one file, one stage of ``dvc.yaml``."""
