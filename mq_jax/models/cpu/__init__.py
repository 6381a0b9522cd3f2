"""Convolutions that work around weaknesses of XLA on CPU.

On other platforms both convolutions are `lax.conv_general_dilated`.
"""
