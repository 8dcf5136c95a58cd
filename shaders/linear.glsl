// The epilogue that matvec and matmul share. A kernel defines nothing: it calls linear_store for pairs of output rows.
PM_ARGS(pm_linear_args);

layout(binding = 2) readonly buffer X {
    vec4 x[]; // (n, x_stride / 4)
};
layout(binding = 3) readonly buffer Squares {
    float squares[]; // (n, squares_stride)
};
layout(binding = 4) readonly buffer Bias {
    float bias[];
};
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

// Finishes rows `row` and `row + 1` (of this dispatch; row is even) of column col, and returns the sum of the squares it wrote.
float linear_store(vec2 v, uint row, uint col) {
    uint out_row = a.row0 + row;
    uint count = min(a.rows - row, 2);
    if ((EPILOGUE & PM_LINEAR_BIAS) != 0) {
        v.x += bias[out_row];
        if (count == 2)
            v.y += bias[out_row + 1];
    }
    if ((EPILOGUE & PM_LINEAR_GLU) != 0) {
        y[col * a.y_stride + out_row / 2] = v.x / (1.0 + exp(-v.x)) * v.y;
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
