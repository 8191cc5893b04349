from sparsedit.cli import main

main()
