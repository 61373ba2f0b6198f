/* qbench_compare.h: two runs, or two builds, held against each other. */
#ifndef NIB_QBENCH_COMPARE_H
#define NIB_QBENCH_COMPARE_H

#include "qbench.h"

/* All rows of a file that measured the same: op, axes, device. */
typedef struct nib_qb_record {
    char    key[640];  /* what makes rows the same */
    char    label[640]; /* the last row's command, without the program's name */
    char    op[32];
    double  median_us; /* of the rows' medians */
    double  noise;     /* the larger of what a row says of itself and half the rows' range */
    double  sol;       /* of the last row; NaN: none */
    int     wrong;     /* a row says "verified": false */
    double *each;      /* medians, in order */
    int     count;
} nib_qb_record;

typedef struct nib_qb_records {
    nib_qb_record *record;
    int            count;
} nib_qb_records;

/* Adds the timed rows of a file of JSON lines. 0: error has a sentence. */
int nib_qb_records_read(const char *path, nib_qb_records *records, char *error,
                        size_t error_bytes);
nib_qb_record *nib_qb_record_find(const nib_qb_records *records, const char *key);
void nib_qb_records_free(nib_qb_records *records);

typedef enum nib_qb_outcome {
    NIB_QB_SAME, NIB_QB_FASTER, NIB_QB_SLOWER, NIB_QB_UNCLEAR, NIB_QB_MISSING, NIB_QB_OUTCOMES
} nib_qb_outcome;

/* How the new time compares: change = new / old - 1, known to +- margin (two standard errors). */
typedef struct nib_qb_change {
    double         change, margin;
    nib_qb_outcome outcome;
} nib_qb_change;

nib_qb_outcome nib_qb_judge(double change, double margin, double threshold);

typedef struct nib_qb_comparison {
    double      threshold; /* < 0: the default of the way of comparing */
    int         rounds;
    unsigned    fail_on;   /* 1 << outcome */
    const char *old, *new_;
    char      **arguments; /* of both programs; NULL: old and new_ are files */
    int         count;
} nib_qb_comparison;

/* Runs both programs in turn until every row is clear or the rounds are used up. */
int nib_qb_interleave(const nib_qb_comparison *how, nib_qb_records *old, nib_qb_records *new_);
/* Of paired runs: old->each[i] and new_->each[i] were neighbours in time. */
nib_qb_change nib_qb_paired_change(const nib_qb_record *old, const nib_qb_record *new_,
                                   double threshold);

#endif
