// How much shared memory a kernel takes: the sizes of its arrays hang on specialization constants, so that the module itself is
// asked and no table beside it can be wrong.
#include "host/spirv.h"

#include <inttypes.h>

#include "host/base.h"

// Chapter 3.52 of the SPIR-V specification; only what is met on the way to the size of a variable.
enum {
    OP_TYPE_BOOL = 20,
    OP_TYPE_INT = 21,
    OP_TYPE_FLOAT = 22,
    OP_TYPE_VECTOR = 23,
    OP_TYPE_ARRAY = 28,
    OP_TYPE_POINTER = 32,
    OP_CONSTANT_TRUE = 41,
    OP_CONSTANT_FALSE = 42,
    OP_CONSTANT = 43,
    OP_SPEC_CONSTANT_TRUE = 48,
    OP_SPEC_CONSTANT_FALSE = 49,
    OP_SPEC_CONSTANT = 50,
    OP_SPEC_CONSTANT_OP = 52,
    OP_VARIABLE = 59,
    OP_DECORATE = 71,
    OP_I_ADD = 128,
    OP_I_SUB = 130,
    OP_I_MUL = 132,
    OP_U_DIV = 134,
    OP_U_MOD = 137,
    OP_LOGICAL_OR = 166,
    OP_LOGICAL_AND = 167,
    OP_LOGICAL_NOT = 168,
    OP_SELECT = 169,
    OP_I_EQUAL = 170,
    OP_I_NOT_EQUAL = 171,
    OP_U_GREATER_THAN = 172,
    OP_U_GREATER_THAN_EQUAL = 174,
    OP_U_LESS_THAN = 176,
    OP_U_LESS_THAN_EQUAL = 178,
    OP_SHIFT_RIGHT = 194,
    OP_SHIFT_LEFT = 196,
    OP_BITWISE_OR = 197,
    OP_BITWISE_AND = 199,
    WORKGROUP = 4, // storage class
    SPEC_ID = 1,   // decoration
    HEADER = 5,    // words
};

// An id of the module: the instruction that makes it, and the number of its specialization constant, counted from 1; 0: it is none.
typedef struct name {
    const uint32_t *made;
    uint32_t spec;
} name;

typedef struct module {
    name *names;
    uint32_t n_names;
    const uint32_t *spec;
    uint32_t n_spec;
    bool unknown; // something was met that we cannot compute
} module;

static uint32_t op_of(const uint32_t *instruction) {
    return instruction[0] & 0xffff;
}

static const uint32_t *made(module *m, uint32_t id) {
    static const uint32_t nothing[8];
    if (id < m->n_names && m->names[id].made)
        return m->names[id].made;
    m->unknown = true;
    return nothing;
}

static uint64_t compute(module *m, uint32_t op, uint64_t a, uint64_t b) {
    switch (op) {
    case OP_I_ADD:
        return (uint32_t)(a + b);
    case OP_I_SUB:
        return (uint32_t)(a - b);
    case OP_I_MUL:
        return (uint32_t)(a * b);
    case OP_U_DIV:
        return b ? a / b : 0;
    case OP_U_MOD:
        return b ? a % b : 0;
    case OP_LOGICAL_OR:
        return a || b;
    case OP_LOGICAL_AND:
        return a && b;
    case OP_I_EQUAL:
        return a == b;
    case OP_I_NOT_EQUAL:
        return a != b;
    case OP_U_GREATER_THAN:
        return a > b;
    case OP_U_GREATER_THAN_EQUAL:
        return a >= b;
    case OP_U_LESS_THAN:
        return a < b;
    case OP_U_LESS_THAN_EQUAL:
        return a <= b;
    case OP_SHIFT_RIGHT:
        return b < 32 ? a >> b : 0;
    case OP_SHIFT_LEFT:
        return b < 32 ? (uint32_t)(a << b) : 0;
    case OP_BITWISE_OR:
        return a | b;
    case OP_BITWISE_AND:
        return a & b;
    default:
        m->unknown = true;
        return 0;
    }
}

static uint64_t value_of(module *m, uint32_t id);

// Words: op, type, id, what to compute, operands.
static uint64_t value_of_op(module *m, const uint32_t *i) {
    if (i[3] == OP_LOGICAL_NOT)
        return !value_of(m, i[4]);
    if (i[3] == OP_SELECT)
        return value_of(m, i[4]) ? value_of(m, i[5]) : value_of(m, i[6]);
    return compute(m, i[3], value_of(m, i[4]), value_of(m, i[5]));
}

// Words: op, type, id, value. Of 32 bits, as all our constants are.
static uint64_t value_of(module *m, uint32_t id) {
    const uint32_t *i = made(m, id);
    uint32_t number = id < m->n_names ? m->names[id].spec : 0;
    if (number && number <= m->n_spec)
        return m->spec[number - 1];
    switch (op_of(i)) {
    case OP_CONSTANT_TRUE:
    case OP_SPEC_CONSTANT_TRUE:
        return 1;
    case OP_CONSTANT_FALSE:
    case OP_SPEC_CONSTANT_FALSE:
        return 0;
    case OP_CONSTANT:
    case OP_SPEC_CONSTANT:
        return i[3];
    case OP_SPEC_CONSTANT_OP:
        return value_of_op(m, i);
    default:
        m->unknown = true;
        return 0;
    }
}

// Words of a number: op, id, bits; of a vector or array: op, id, element, how many.
static uint64_t size_of(module *m, uint32_t id) {
    const uint32_t *i = made(m, id);
    switch (op_of(i)) {
    case OP_TYPE_BOOL:
        return 4;
    case OP_TYPE_INT:
    case OP_TYPE_FLOAT:
        return i[2] / 8;
    case OP_TYPE_VECTOR:
        return size_of(m, i[2]) * i[3];
    case OP_TYPE_ARRAY:
        return size_of(m, i[2]) * value_of(m, i[3]);
    default:
        m->unknown = true;
        return 0;
    }
}

// Which word of an instruction is the id that it makes; 0: it makes none that we look up.
static int result_word(uint32_t op) {
    if (op >= OP_TYPE_BOOL && op <= OP_TYPE_POINTER)
        return 1;
    return op >= OP_CONSTANT_TRUE && op <= OP_SPEC_CONSTANT_OP ? 2 : 0;
}

static void note_name(module *m, const uint32_t *i) {
    int result = result_word(op_of(i));
    if (result && i[result] < m->n_names)
        m->names[i[result]].made = i;
    if (op_of(i) == OP_DECORATE && i[2] == SPEC_ID && i[1] < m->n_names)
        m->names[i[1]].spec = i[3] + 1;
}

// Words of a variable: op, type, id, storage class; of its type: op, id, storage class, what it points to.
static uint64_t sum_of_variables(module *m, const uint32_t *words, size_t n) {
    uint64_t sum = 0;
    for (size_t at = HEADER; at < n; at += words[at] >> 16)
        if (op_of(words + at) == OP_VARIABLE && words[at + 3] == WORKGROUP)
            sum += size_of(m, made(m, words[at + 1])[3]);
    return sum;
}

pm_status pm_spirv_shared_bytes(const uint32_t *words, size_t n, const uint32_t *spec, int n_spec, uint64_t *bytes) {
    module m = {.n_names = words[3], .spec = spec, .n_spec = (uint32_t)n_spec};
    m.names = pm_calloc(m.n_names, sizeof(*m.names));
    if (!m.names)
        return pm_fail(PM_ERR_MEMORY, "no memory to look into a kernel of %" PRIu32 " names", m.n_names);
    for (size_t at = HEADER; at < n; at += words[at] >> 16)
        note_name(&m, words + at);
    *bytes = sum_of_variables(&m, words, n);
    pm_free(m.names);
    return m.unknown ? pm_fail(PM_ERR_UNSUPPORTED, "the shared memory of a kernel hangs on what we cannot compute") : PM_OK;
}
