"""The stages of a build, one file each; `edgebuild.pipeline` calls them in order."""
