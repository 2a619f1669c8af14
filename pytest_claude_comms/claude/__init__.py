"""The Claude CLI: what it prints and what that means."""
