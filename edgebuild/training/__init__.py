"""The one training loop, its checkpoints, and the losses that techniques train with.

``plan`` (what to do), ``batches`` (what is learnt from), ``loop`` (how), ``checkpoints`` (what survives a kill),
``losses`` and ``teachers`` (what is asked for), ``labels`` (teacher predictions kept on disk).
"""
