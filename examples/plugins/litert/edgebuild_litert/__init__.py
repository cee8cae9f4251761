"""LiteRT (once TensorFlow Lite) as a backend of edgebuild: an example of a third party's package."""
