from tests.history.walk import main

raise SystemExit(main())
