"""What ``-p claude_comms`` loads. It only names the plugin.

pluggy refuses one module under two names. Named here, ``pytest_claude_comms.plugin`` is always
registered under its own, whether it comes by entry point, ``-p``, conftest or several of them.
"""

pytest_plugins = ["pytest_claude_comms.plugin"]
