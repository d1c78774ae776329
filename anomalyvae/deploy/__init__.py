"""A fitted model at work: saved, loaded, exported and run over folders of files."""
