"""What runs on the board: checks and installs a release with Python 3.8's standard library, and nothing of edgebuild.

The modules are sent as one file, ``verify.py``: see ``board_script``. So a name on top of one module is a name in all.
"""
