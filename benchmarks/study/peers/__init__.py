"""Methods of others for the study of mixtures, at settings of their authors where there are some.

`PEERS` in `methods.py` names them with their trials. A peer that is no fit of `htr.fit` is a
function in a file of its own, which takes a `Task` and returns something that predicts.
"""
