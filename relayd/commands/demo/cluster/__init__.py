"""A replicated PostgreSQL that fails over: etcd, Patroni and HAProxy, from the shipped files."""
