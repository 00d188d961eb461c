"""``python -m trtc``: the same as the ``trtc`` command."""

from trtc.cli import main

main()
