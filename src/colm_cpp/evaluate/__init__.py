"""How good and how fast a pair is: problems, answers, checkers, statistics, costs."""
