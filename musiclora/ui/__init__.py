"""Local web page over the commands: songs, training, new pieces, adapters (extra `ui`: Gradio)."""
