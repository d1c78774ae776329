"""CSV files of any dialect become tables of numbers and text, or an error that names the line and the cell.

- ``dialect`` reads the head of a file: encoding, separator, decimal mark, header and units.
- ``layout`` finds the table in its lines; ``names`` knows units and the names of time columns.
- ``cells`` turns text into numbers; ``files`` reads a whole file by its dialect, piece by piece.
- ``arrays`` has what rows in memory may be: masked arrays, records, durations.
- ``rows`` reads files whose rows are learned or scored; ``useful`` finds columns from which nothing can be learned.
"""
