"""Convolutions that work around weaknesses of XLA on CPU.

On other platforms they are `lax.conv_general_dilated`.
"""
