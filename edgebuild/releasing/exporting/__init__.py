"""One target of a release as other tools ship it: a Mender artifact, a SWUpdate image, a Triton model repository."""
