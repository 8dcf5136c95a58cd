// What matvec and matmul share: which rows a workgroup takes, and the epilogue. A kernel defines nothing: it asks linear_begin whether
// there is anything to do, x_row, y_row and has_column for column c of its own, w_row for a row of W, and calls linear_store for pairs
// of output rows. With EXPERTS, W is a stack of matrices, and each pair of a row of x and a place among its experts has a matrix.
PM_ARGS(pm_linear_args);

layout(binding = 2) readonly buffer X {
    vec4 x[]; // (n, x_stride / 4)
};
layout(binding = 3) readonly buffer Squares {
    float squares[]; // (n, squares_stride)
};
#ifdef EXPERTS
layout(binding = 4) readonly buffer Routes {
    uint routes[]; // struct pm_route (n_pairs), order (n_pairs), struct pm_tile (n_tiles)
};
#else
layout(binding = 4) readonly buffer Bias {
    float bias[];
};
#endif
layout(binding = 5) readonly buffer Gain {
    float gain[];
};
layout(binding = 6) buffer Y {
    float y[]; // (n, y_stride)
};
layout(binding = 7) buffer Normed {
    float normed[]; // (n, y_stride)
};
layout(binding = 8) buffer OutSquares {
    float out_squares[];
};

layout(constant_id = 1) const uint EPILOGUE = 0;

// ---- which rows ---------------------------------------------------------------------------------------------------------

#ifndef EXPERTS
const bool SUMS_EXPERTS = false;
uint first_column;

bool linear_begin(uint columns) {
    first_column = a.n0 + gl_WorkGroupID.y * columns;
    return true;
}

uint x_row(uint c) {
    return min(first_column + c, a.n - 1);
}

uint y_row(uint c) {
    return first_column + c;
}

bool has_column(uint c) {
    return first_column + c < a.n;
}

uint w_row(uint row) {
    return min(row, a.rows - 1);
}

float y_weight(uint row) {
    return 1.0;
}

// A row of y is the product with n_items() blocks of W; begin_item says which block number i is.
uint n_items() {
    return a.blocks;
}

bool begin_item(uint i, out uint block) {
    block = i;
    return true;
}
#else
// PM_LINEAR_ADD: a column is a row of x, and the products of all its experts are added up. Else it is a pair: in order, or, where
// they are grouped, of a tile of pairs that have one expert.
const bool SUMS_EXPERTS = (EPILOGUE & PM_LINEAR_ADD) != 0;
const bool GROUPED = (EPILOGUE & PM_LINEAR_GROUPED) != 0;
uint first_column, n_columns;
uint first_row; // of the expert in W
uint pair = 0;  // SUMS_EXPERTS: of the item begun

// False where the expert is not among those bound.
bool begin_expert(uint expert) {
    first_row = (expert - a.expert0) * a.rows;
    return expert - a.expert0 < a.n_experts;
}

bool linear_begin(uint columns) {
    first_column = gl_WorkGroupID.y;
    n_columns = 1;
    if (SUMS_EXPERTS)
        return true;
    if (!GROUPED)
        return begin_expert(routes[2 * first_column]);
    uint tile = 3 * (a.n_pairs + gl_WorkGroupID.y);
    first_column = routes[tile + 1];
    n_columns = routes[tile + 2];
    return n_columns > 0 && begin_expert(routes[tile]);
}

uint y_row(uint c) {
    return GROUPED ? routes[2 * a.n_pairs + first_column + min(c, n_columns - 1)] : first_column;
}

uint x_row(uint c) {
    if (SUMS_EXPERTS)
        return pair;
    return (EPILOGUE & PM_LINEAR_GLU) != 0 ? y_row(c) / a.n_used : y_row(c);
}

bool has_column(uint c) {
    return c < n_columns;
}

uint w_row(uint row) {
    return first_row + min(row, a.rows - 1);
}

float y_weight(uint row) {
    return uintBitsToFloat(routes[2 * row + 1]);
}

// The blocks of all experts are one row: lanes that are more than an expert has blocks are not idle.
uint n_items() {
    return SUMS_EXPERTS ? a.n_used * a.blocks : a.blocks;
}

bool begin_item(uint i, out uint block) {
    block = i;
    if (!SUMS_EXPERTS)
        return true;
    block = i % a.blocks;
    pair = gl_WorkGroupID.y * a.n_used + i / a.blocks;
    return begin_expert(routes[2 * pair]);
}
#endif

// ---- the epilogue -------------------------------------------------------------------------------------------------------

// Finishes rows `row` and `row + 1` (of this dispatch; row is even) of row col of y, and returns the sum of the squares it wrote.
float linear_store(vec2 v, uint row, uint col) {
    uint out_row = a.row0 + row;
    uint count = min(a.rows - row, 2);
#ifndef EXPERTS
    if ((EPILOGUE & PM_LINEAR_BIAS) != 0) {
        v.x += bias[out_row];
        if (count == 2)
            v.y += bias[out_row + 1];
    }
#endif
    if ((EPILOGUE & PM_LINEAR_GLU) != 0) {
        y[col * a.y_stride + out_row / 2] = v.x / (1.0 + exp(-v.x)) * v.y * y_weight(col);
        return 0;
    }
    uint at = col * a.y_stride + out_row;
    if ((EPILOGUE & PM_LINEAR_ADD) == 0) {
        y[at] = v.x;
        if (count == 2)
            y[at + 1] = v.y;
        return 0;
    }
    v.x += y[at];
    y[at] = v.x;
    normed[at] = v.x * gain[out_row];
    if (count == 1)
        return v.x * v.x;
    v.y += y[at + 1];
    y[at + 1] = v.y;
    normed[at + 1] = v.y * gain[out_row + 1];
    return dot(v, v);
}
