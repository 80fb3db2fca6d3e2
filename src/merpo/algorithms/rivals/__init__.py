"""What MerPO is compared with, one readable file each; `docs/rivals.md` says which parts they share."""
