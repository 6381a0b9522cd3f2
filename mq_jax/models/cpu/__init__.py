"""Convolutions that work around weaknesses of XLA on CPU.

On other platforms each of them is `lax.conv_general_dilated`.
"""
