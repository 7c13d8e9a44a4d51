/*
 * A node for a program that measures it
 *
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Copyright (c) 2026 The quorum project authors
 */

#ifndef BENCH_NODE_H
#define BENCH_NODE_H

#include "block/block.h"
#include "crypto/init.h"
#include "qapi/error.h"
#include "qapi/qapi-commands-block-core.h"
#include "qapi/qapi-visit-block-core.h"
#include "qapi/qobject-output-visitor.h"
#include "qemu/main-loop.h"
#include "qemu/module.h"
#include "qobject/qdict.h"
#include "qobject/qjson.h"
#include "system/block-backend.h"

/* Start the block layer, and open the node with @options, KEY=VALUE,... */
static inline BlockBackend *open_node(const char *options)
{
    g_auto(GStrv) words = g_strsplit(options, ",", -1);
    QDict *dict = qdict_new();

    for (char **word = words; *word; word++) {
        char *value = strchr(*word, '=');

        *value++ = '\0';
        qdict_put_str(dict, *word, value);
    }
    module_call_init(MODULE_INIT_TRACE);
    qemu_init_main_loop(&error_fatal);
    qcrypto_init(&error_fatal);
    module_call_init(MODULE_INIT_QOM);
    bdrv_init();
    return blk_new_open(NULL, NULL, dict, BDRV_O_RDWR, &error_fatal);
}

/* Our driver's counters */
static inline void print_stats(void)
{
    BlockStatsList *stats = qmp_query_blockstats(true, true, &error_fatal);
    QObject *object = NULL;
    Visitor *v = qobject_output_visitor_new(&object);
    g_autoptr(GString) json = NULL;

    visit_type_BlockStatsList(v, NULL, &stats, &error_fatal);
    visit_complete(v, &object);
    json = qobject_to_json(object);
    printf("stats %s\n", json->str);
    visit_free(v);
    qobject_unref(object);
    qapi_free_BlockStatsList(stats);
}

#endif /* BENCH_NODE_H */
