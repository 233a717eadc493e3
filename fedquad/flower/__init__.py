"""FedQuad and the other methods as a Flower app, in its simulation and on real devices.

Nothing else of the library imports it, and it needs ``pip install fedquad[flower]``.
``python -m fedquad.flower --help`` has the commands, from certificates to the first round.
"""
