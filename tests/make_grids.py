#!/usr/bin/env python3
"""Makes loader/grids.h: the tables of values that ggml's IQ1, IQ2 and IQ3 types index, as the gguf package (PyPI) has them. Needs gguf.

An entry is 8 values of 2 bits or 4 values of 4 bits, the first one lowest; each is a number in the type's list of magnitudes.
"""
import os
import gguf.quants as quants

HERE = os.path.dirname(os.path.abspath(__file__))
TABLES = [quants.IQ2_XXS, quants.IQ2_XS, quants.IQ2_S, quants.IQ3_XXS, quants.IQ3_S, quants.IQ1_S]


def entries(table):
    table.init_grid()
    n, width = table.grid_shape
    numbers = {value: i for i, value in enumerate(table.grid_map)}
    for row in table.grid.reshape(n, width):
        yield sum(numbers[int(value)] << 16 // width * i for i, value in enumerate(row))


with open(os.path.join(HERE, '..', 'loader', 'grids.h'), 'w') as f:
    f.write('// Made by tests/make_grids.py: the tables of values of ggml\'s IQ1, IQ2 and IQ3 types. An entry is 8 values of 2 bits, in IQ3 types\n'
            '// 4 values of 4 bits, the first one lowest: numbers of a magnitude (loader/grid.c). Include it in one file.\n'
            '#include <stdint.h>\n')
    for table in TABLES:
        words = ['0x%04x,' % entry for entry in entries(table)]
        f.write('\nstatic const uint16_t grid_%s[%d] = {\n' % (table.__name__.lower(), len(words)))
        for i in range(0, len(words), 16):
            f.write('    ' + ' '.join(words[i:i + 16]) + '\n')
        f.write('};\n')
