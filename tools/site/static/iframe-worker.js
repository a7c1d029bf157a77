// Browsers refuse workers to pages that are read from files: there, the script of a worker runs in a hidden frame.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const inner = frame.contentWindow
      const load = (address) => new Promise((done, failed) => {
        const script = inner.document.createElement("script")
        Object.assign(script, { src: address, onload: done, onerror: failed })
        inner.document.body.append(script)
      })
      inner.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }))
      inner.importScripts = (...addresses) => Promise.all(addresses.map(load))
      this.inner = inner
      this.ready = load(url)
    }
    postMessage(data) { this.ready.then(() => this.inner.dispatchEvent(new MessageEvent("message", { data }))) }
    terminate() {}
  }
}
