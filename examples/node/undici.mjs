// May these keys be used? With undici:  npm ci && node undici.mjs SOCKET [KEY_ID...]
// (Node's own fetch takes no socket; undici's fetch does, with a Pool like this as its dispatcher.)
import { Pool } from 'undici'
import { judge, limit, main, pathOf } from './verdict.mjs'

const sidecar = new Pool('http://localhost', { socketPath: process.argv[2], connections: 32 })

export async function ask(keyId) {
  const { statusCode, body } = await sidecar.request({ path: pathOf(keyId), method: 'GET', signal: AbortSignal.timeout(limit) })
  return judge(keyId, statusCode, await body.text())
}

process.exitCode = await main(ask)
await sidecar.destroy()
