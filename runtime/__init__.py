"""What an edge box needs: bundle, engines, gallery, matching, sources, stream. Never imports torch."""
