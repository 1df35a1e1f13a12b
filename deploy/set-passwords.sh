#!/bin/sh
# Makes .env and deploy/redis/users.acl beside each other's passwords, in the directory above this file.
#
# A password that .env has is kept, an empty one is made. Redis's file holds their SHA-256 only, so that the server's
# own user may read it. With --scale the store is in PostgreSQL from the next `docker compose up -d` on. Run it again after a password was changed or emptied in .env, then: docker compose up -d
set -eu
cd "$(dirname "$0")/.."
umask 077

[ -e .env ] || cp deploy/env.example .env
chmod 600 .env
for name in $(sed -n 's/^\([A-Z_]*_PASSWORD\)=.*/\1/p' deploy/env.example); do
    grep -q "^$name=" .env || echo "$name=" >> .env
    if grep -q "^$name=\$" .env; then
        made=$(od -An -v -tx1 -N24 /dev/urandom | tr -d ' \n')
        sed "s/^$name=\$/$name=$made/" .env > .env.new
        mv .env.new .env
    fi
done

if [ "${1:-}" = --scale ]; then
    grep -q "^COMPOSE_PROFILES=" .env || echo "COMPOSE_PROFILES=scale" >> .env
    grep -q "^STORE_URL=" .env ||
        echo "STORE_URL=postgresql://refinery:$(sed -n 's/^POSTGRES_PASSWORD=//p' .env)@postgres/refinery" >> .env
fi

rules=$(cat deploy/redis/users.acl.example)
for name in $(sed -n 's/^user [a-z]* on >\([A-Z]*_PASSWORD\) .*/\1/p' deploy/redis/users.acl.example); do
    password=$(sed -n "s/^$name=//p" .env)
    case $password in
        *[!A-Za-z0-9]*)
            echo "$name in .env: letters and digits only, since it stands in addresses" >&2
            exit 1
            ;;
    esac
    digest=$(printf %s "$password" | sha256sum | cut -c 1-64)
    rules=$(printf '%s\n' "$rules" | sed "s/>$name /#$digest /")
done
# Written in place: a container that has the file mounted keeps seeing it.
printf '%s\n' "$rules" > deploy/redis/users.acl
chmod 644 deploy/redis/users.acl
echo "passwords are in .env, and Redis's users in deploy/redis/users.acl"
